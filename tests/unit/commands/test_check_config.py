"""`wetread check-config` warns of what is allowed and weak."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from wetread.__main__ import cli


def _said(folder: Path, settings: str) -> str:
    file = folder / "wetread.toml"
    file.write_text(settings, encoding="utf-8")
    result = CliRunner().invoke(cli, ["check-config", "--config", str(file)])
    assert result.exit_code == 0, result.output
    return "\n".join(line for line in result.output.splitlines() if "access." in line)


def test_the_usual_way_of_signing_in_needs_no_warning(tmp_path: Path) -> None:
    assert _said(tmp_path, "") == ""


def test_weak_ways_of_signing_in_are_warned_of(tmp_path: Path) -> None:
    said = _said(tmp_path, "[access]\npassword_length = 8\ntotp_roles = []\nlockout_after = 50\n")
    for key in ("access.password_length", "access.totp_roles", "access.lockout_after"):
        assert f"warning: {key}" in said
