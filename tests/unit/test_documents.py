"""What the documents say is so: every command, error and link in them, and nothing of one machine."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from wetread import errors
from wetread.commands.tree import cli
from wetread.record.audit.kinds import KINDS

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
PICTURE = re.compile(r"!\[[^\]]*\]\(([^)\s]+)\)")


def committed() -> list[Path]:
    """The files of the repository, also those not yet added; none that git ignores."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return [ROOT / name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


def pages() -> list[Path]:
    return [file for file in committed() if file.suffix == ".md"]


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def commands(app: typer.Typer, name: str) -> Iterator[str]:
    for command in app.registered_commands:
        assert command.callback is not None
        yield f"{name} {command.name or command.callback.__name__}"
    for group in app.registered_groups:
        assert group.typer_instance is not None
        yield from commands(group.typer_instance, f"{name} {group.name}")


def leaves(error: type[errors.WetreadError] = errors.WetreadError) -> Iterator[type[errors.WetreadError]]:
    """The classes of errors.py that have a code of their own."""
    if "code" in vars(error) and error.__module__ == errors.__name__:
        yield error
    for inner in error.__subclasses__():
        yield from leaves(inner)


def codes_in_source() -> set[str]:
    """Codes of error classes anywhere in the server: a face or a sender may add a leaf of its own."""
    found: set[str] = set()
    for file in (ROOT / "server" / "wetread").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            for statement in node.body if isinstance(node, ast.ClassDef) else ():
                match statement:
                    case (
                        ast.Assign(targets=[ast.Name("code")], value=ast.Constant(str(code)))
                        | ast.AnnAssign(target=ast.Name("code"), value=ast.Constant(str(code)))
                    ):
                        found.add(code)
    return found


def error_rows() -> dict[str, list[str]]:
    rows = re.findall(r"^\| `([a-z-]+)` \| (.+) \|$", text("docs/errors.md"), re.MULTILINE)
    return {code: [cell.strip("` ") for cell in rest.split(" | ")] for code, rest in rows}


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("command", sorted(commands(cli, "wetread")))
def test_every_command_is_in_the_operations_page(command: str) -> None:
    assert command in text("docs/operations.md")


def test_every_error_is_documented_as_it_is() -> None:
    rows = error_rows()
    assert set(rows) == codes_in_source()
    for leaf in leaves():
        status = f"{leaf.dimse_status:04X}"
        assert rows[leaf.code][:4] == [str(leaf.http_status), leaf.fhir_issue, leaf.hl7_error, status], leaf.code


def test_every_error_says_what_to_do() -> None:
    assert all(len(row) == 6 and row[4] and row[5] for row in error_rows().values())


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_audit_kind_is_documented(kind: str) -> None:
    assert f"`{kind}`" in text("docs/audit.md")


@pytest.mark.parametrize("package", tomllib.loads(text("pyproject.toml"))["project"]["dependencies"])
def test_every_dependency_has_its_reason(package: str) -> None:
    name = re.split(r"[\[<>=]", package)[0]
    assert f"| `{name}` |" in text("docs/decisions/0013-dependencies.md")


def test_decision_records_have_their_four_sections_and_stand_in_the_list() -> None:
    index = text("docs/decisions/README.md")
    records = sorted((ROOT / "docs" / "decisions").glob("0*.md"))
    assert [int(record.name[:4]) for record in records] == list(range(1, len(records) + 1))
    for record in records:
        lines = record.read_text(encoding="utf-8").splitlines()
        assert lines[0].startswith(f"# {record.name[:4]}. ")
        sections = [line for line in lines if line.startswith("## ")]
        assert sections == ["## Context", "## Decision", "## Consequences", "## Status"], record.name
        assert f"[{lines[0].removeprefix('# ')}]({record.name})" in index


def test_every_room_is_on_the_map() -> None:
    rooms = {file.parent.name for file in (ROOT / "server" / "wetread").glob("*/__init__.py")}
    table = text("ARCHITECTURE.md")
    assert not {room for room in rooms if f"`{room}/`" not in table}


def test_every_relative_link_leads_somewhere() -> None:
    broken = []
    for page in pages():
        for target in LINK.findall(page.read_text(encoding="utf-8")):
            path, _, anchor = target.partition("#")
            if re.match(r"[a-z]+:", target):
                continue
            file = (page.parent / path).resolve() if path else page
            if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert not broken


def test_every_picture_is_there() -> None:
    missing = [
        target
        for page in pages()
        for target in PICTURE.findall(page.read_text(encoding="utf-8"))
        if "://" not in target and not (page.parent / target).is_file()
    ]
    assert not missing


def test_no_text_file_names_a_path_of_one_machine() -> None:
    """Paths that exist on a developer's machine only; `/tmp` and the like are fine."""
    machine = re.compile(rb"(?<![\w./-])/(?:work|root|home/[a-z]+|Users/[a-z]+)/[\w.-]")
    found = []
    for file in committed():
        content = file.read_bytes()
        if b"\0" not in content[:8192] and machine.search(content):
            found.append(str(file.relative_to(ROOT)))
    assert not found
