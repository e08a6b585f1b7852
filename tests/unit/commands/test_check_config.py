"""`wetread check-config` warns of what is allowed and weak, and tells no secret."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import Result
from tests.certificates import Authority
from typer.testing import CliRunner

from wetread.__main__ import main
from wetread.commands.tree import cli
from wetread.commands.weaknesses import weaknesses
from wetread.errors import Misconfigured
from wetread.settings import load


def _written(folder: Path, settings: str, mode: int = 0o600) -> Path:
    file = folder / "wetread.toml"
    file.write_text(settings, encoding="utf-8")
    file.chmod(mode)
    return file


def _checked(folder: Path, settings: str, *more: str) -> Result:
    return CliRunner().invoke(cli, ["check-config", "--config", str(_written(folder, settings)), *more])


def _warnings(folder: Path, settings: str, *, mode: int = 0o600) -> list[str]:
    file = _written(folder, settings, mode)
    return list(weaknesses(load(file), file))


@pytest.fixture
def tls(tmp_path: Path) -> str:
    """The lines of a [*.tls] table, with files that only we may read."""
    authority = Authority(tmp_path, "clients")
    pair = authority.issue("server", days=90)
    pair.key.chmod(0o600)
    return f"certificate = '{pair.certificate}'\nkey = '{pair.key}'\n"


def test_the_defaults_need_no_warning(tmp_path: Path) -> None:
    assert "warning" not in _checked(tmp_path, "").output


def test_a_topic_of_the_site_is_counted_and_a_wrong_one_is_told_by_name(tmp_path: Path) -> None:
    topics = tmp_path / "site" / "topics"
    topics.mkdir(parents=True)
    topic = {"resourceType": "SubscriptionTopic", "url": "https://site.example/t", "status": "active"}
    own = topics / "own.json"
    own.write_text(json.dumps({**topic, "resourceTrigger": [{"resource": "Task"}]}), encoding="utf-8")
    without, within = _checked(tmp_path, "").output, _checked(tmp_path, "overlay_dir = 'site'").output
    counts = [int(re.findall(r"(\d+) topics", output)[0]) for output in (without, within)]
    assert counts[1] == counts[0] + 1
    own.write_text(json.dumps({**topic, "resourceTrigger": [{"resource": "Tasks"}]}), encoding="utf-8")
    refused = _checked(tmp_path, "overlay_dir = 'site'")
    assert refused.exit_code
    assert "own.json" in str(refused.exception)


def test_nor_does_a_careful_site(tmp_path: Path, tls: str) -> None:
    (tmp_path / "url").write_text("postgresql://wetread:hush@db/wetread\n")
    (tmp_path / "url").chmod(0o600)
    settings = f"""
        database_url_file = "url"
        [http]
        host = "0.0.0.0"
        base_url = "https://wetread.example.org"
        [http.tls]
        {tls}
        [mllp]
        host = "0.0.0.0"
        [mllp.tls]
        client_ca = "clients.pem"
        {tls}
    """
    settings = "\n".join(line.strip() for line in settings.splitlines())
    assert _warnings(tmp_path, settings) == []


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ("profile = 'demo'", "profile"),
        ("[access]\npassword_length = 8", "access.password_length"),
        ("[access]\ntotp_roles = []", "access.totp_roles"),
        ("[access]\nlockout_after = 50", "access.lockout_after"),
        ("[access]\ntoken_minutes = 600", "access.token_minutes"),
        ("[access]\nsession_hours = 100", "access.session_hours"),
        ("[access]\noffline_days = 360", "access.offline_days"),
        (
            "[http]\nhost = '0.0.0.0'\nbase_url = 'https://x.example'\ntrusted_proxies = ['10.0.0.1/32']",
            "http.host",
        ),
        ("[http]\nbase_url = 'http://wetread.example.org'", "http.base_url"),
        ("[http]\nallow = ['0.0.0.0/0']", "http.allow"),
        ("[http]\ntrusted_proxies = ['::/0']", "http.trusted_proxies"),
        ("[http.limits]\nclient_per_minute = 0", "http.limits.client_per_minute"),
        ("[http.limits]\nguesses_per_name = 0", "http.limits.guesses_per_name"),
        ("[mllp]\nhost = '0.0.0.0'\nallow = ['10.0.0.0/8']", "mllp.tls"),
        ("[dicom]\nhost = '0.0.0.0'\nallow = ['10.0.0.0/8']", "dicom.tls"),
        ("[mllp]\nallow = ['0.0.0.0/1', '10.0.0.0/8']", "mllp.allow"),
        ("[outbound]\nplain = false\nallow = ['169.254.0.0/16']", "outbound.allow"),
        ("[outbound]\nplain = false\nallow = ['fe00::/7', 'hook.example.org']", "outbound.allow"),
        ("[outbound]\nplain = false\nallow = ['0.0.0.0/0']", "outbound.allow"),
        ("[outbound]\nallow = ['127.0.0.0/8', '::1/128', 'localhost', 'ehr.example.org']", "outbound.plain"),
        ("[outbound]\nminimum_version = '1.2'", "outbound.minimum_version"),
        ("database_url = 'postgresql://wetread:hush@db/wetread'", "database_url"),
        (
            "[[outbound.destinations]]\nname='a'\nkind='mllp'\nhost='10.1.1.1'\nport=1\nsends=['alert']",
            "outbound.destinations.a",
        ),
        (
            "[[outbound.destinations]]\nname='a'\nkind='stow'\nurl='http://pacs.example.org'\nsends=['sr']",
            "outbound.destinations.a",
        ),
        (
            "[[outbound.endpoints]]\nurl='https://ehr.example.org/'\ntls={minimum_version='1.2'}",
            "outbound.endpoints.https://ehr.example.org/.tls.minimum_version",
        ),
        (
            "[outbound.mail]\nhost='m.example.org'\nsender='a@b.org'\nrecipients=['b.org']\nsecurity='none'",
            "outbound.mail.security",
        ),
    ],
)
def test_what_is_weak_is_named_by_its_key(tmp_path: Path, settings: str, key: str) -> None:
    (warning,) = _warnings(tmp_path, settings)
    assert warning.startswith(f"{key}: ") or warning.startswith(f"{key} ")
    assert "hush" not in warning


class TestCertificates:
    def test_tls_1_2_and_senders_without_certificates(self, tmp_path: Path, tls: str) -> None:
        said = _warnings(
            tmp_path, f"[dicom]\nhost = '0.0.0.0'\nallow = ['10.0.0.0/8']\n[dicom.tls]\nminimum_version = '1.2'\n{tls}"
        )
        assert [line.partition(":")[0] for line in said] == ["dicom.tls.client_ca", "dicom.tls.minimum_version"]

    @pytest.mark.parametrize(("days", "word"), [(-1, "has expired"), (10, "expires on")])
    def test_that_have_ended_or_soon_will(self, tmp_path: Path, days: float, word: str) -> None:
        pair = Authority(tmp_path).issue("server", days=days)
        pair.key.chmod(0o600)
        (warning,) = _warnings(tmp_path, f"[http.tls]\ncertificate = '{pair.certificate}'\nkey = '{pair.key}'\n")
        assert warning.startswith(f"http.tls.certificate: {pair.certificate} {word}")

    def test_that_cannot_be_used_are_an_error(self, tmp_path: Path) -> None:
        pair, other = Authority(tmp_path).issue("server"), Authority(tmp_path, "other").issue("other")
        result = _checked(tmp_path, f"[http.tls]\ncertificate = '{pair.certificate}'\nkey = '{other.key}'\n")
        assert isinstance(result.exception, Misconfigured)

    def test_whose_key_others_may_read(self, tmp_path: Path, tls: str) -> None:
        (tmp_path / "server.key").chmod(0o644)
        (warning,) = _warnings(tmp_path, f"[http.tls]\n{tls}")
        assert warning.startswith("http.tls.key: ")
        assert "chmod 600" in warning


class TestSecrets:
    PROVIDER = """
[outbound]
allow = ["login.example.org"]
plain = false
[[access.providers]]
name = "hospital"
display_name = "Hospital"
issuer = "https://login.example.org"
client_id = "wetread"
"""

    def test_in_a_file_that_others_may_read_are_warned_of_twice(self, tmp_path: Path) -> None:
        said = _warnings(tmp_path, self.PROVIDER + 'client_secret = "hush"', mode=0o644)
        assert [line.partition(":")[0] for line in said] == [
            "access.providers.client_secret",
            str(tmp_path / "wetread.toml"),
        ]

    def test_that_sign_or_log_in_are_looked_at_too(self, tmp_path: Path) -> None:
        for name in ("hooks", "mail", "nats"):
            (tmp_path / name).write_text("hush" * 8)
            (tmp_path / name).chmod(0o644)
        said = _warnings(
            tmp_path,
            "[[outbound.endpoints]]\nurl = 'https://ehr.example.org'\nhmac_secret_file = 'hooks'\n"
            "[outbound.mail]\nhost = '127.0.0.1'\nsender = 'a@b.org'\nrecipients = ['b.org']\npassword_file = 'mail'\n"
            "[outbound.nats]\nservers = ['nats://127.0.0.1']\nsubjects = ['>']\ncredentials = 'nats'\n",
        )
        assert [line.partition(": ")[0] for line in said] == [
            "outbound.endpoints.https://ehr.example.org.hmac_secret_file",
            "outbound.mail.password_file",
            "outbound.nats.credentials",
        ]
        assert "hush" not in str(said)

    def test_in_files_of_their_own_are_looked_at_too(self, tmp_path: Path) -> None:
        (tmp_path / "secret").write_text("hush\n")
        (tmp_path / "secret").chmod(0o600)
        settings = self.PROVIDER + 'client_secret_file = "secret"'
        assert _warnings(tmp_path, settings) == []
        (tmp_path / "secret").chmod(0o640)
        (warning,) = _warnings(tmp_path, settings)
        assert warning.startswith("access.providers.hospital.client_secret_file: ")

    @pytest.mark.parametrize(
        "settings",
        [
            "database_url = 'postgresql://wetread:hush@db/wetread'\n[http]\nport = 'x'",
            "database_url = 'mysql://wetread:hush@db/wetread'",
            "database_url = ['hush']",
            PROVIDER + 'client_secret = ["hush"]',
            PROVIDER + 'client_secret = "hush"\nclient_secrt = "hush"',
            "databse_url = 'postgresql://wetread:hush@db/wetread'",
        ],
    )
    def test_stand_in_no_error(
        self, tmp_path: Path, settings: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "wetread.toml").write_text(settings)
        monkeypatch.setattr("sys.argv", ["wetread", "check-config", "--config", str(tmp_path / "wetread.toml")])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capfd.readouterr()
        assert ended.value.code == 2
        assert "hush" not in said.out + said.err

    def test_stand_in_no_help(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WETREAD_DATABASE_URL", "postgresql://wetread:hush@db/wetread")
        for command in (["--help"], ["serve", "--help"], ["check-config", "--help"], ["token", "--help"]):
            assert "hush" not in CliRunner().invoke(cli, command).output


def test_a_warning_is_no_error_unless_it_is_asked_to_be(tmp_path: Path) -> None:
    assert _checked(tmp_path, "", "--strict").exit_code == 0
    said = _checked(tmp_path, "[access]\ntotp_roles = []")
    assert (said.exit_code, "warning: access.totp_roles " in said.output) == (0, True)
    assert _checked(tmp_path, "[access]\ntotp_roles = []", "--strict").exit_code == 1
