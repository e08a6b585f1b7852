"""`wetread views`, on a store beside a running server."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from wetread.commands.tree import cli
from wetread.errors import InvalidInput, NotFound
from wetread.record import lossless, resources
from wetread.store.database import Database

ROOT = Path(__file__).parents[3]
EXAMPLES = sorted((ROOT / "conformance/examples").glob("*.json"))
PATIENTS = [file.stem.removeprefix("patient-") for file in EXAMPLES if file.stem.startswith("patient-")]


@pytest.fixture(scope="module")
async def config(module_database: Database, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Settings of a server whose record holds the examples of the demonstration."""
    folder = tmp_path_factory.mktemp("views")
    async with module_database.transaction() as conn:
        for file in EXAMPLES:
            await resources.put(conn, lossless.parse(file.read_text(encoding="utf-8")))
    (folder / "wetread.toml").write_text(f'database_url = "{module_database.url}"\n', encoding="utf-8")
    return folder


async def wetread(config: Path, *arguments: str) -> Result:
    command = ["views", *arguments, "--config", str(config / "wetread.toml"), "--data-dir", str(config / "data")]
    return await asyncio.to_thread(CliRunner().invoke, cli, command)


def names(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir()]


async def test_a_shipped_view_goes_to_a_file(config: Path) -> None:
    target = config / "studies.json"
    made = await wetread(config, "run", "imaging-studies", "--format", "json", "--output", str(target))
    assert made.exit_code == 0, made.output
    assert "2 rows of 2 resources of type ImagingStudy" in made.stderr
    rows = json.loads(target.read_text(encoding="utf-8"))
    assert {row["series_modality"] for row in rows} == {"CR", "CT"}


async def test_a_view_of_ones_own_goes_to_standard_output(config: Path) -> None:
    path = config / "own.json"
    content: dict[str, Any] = {"resource": "Patient", "select": [{"column": [{"name": "id", "path": "id"}]}]}
    path.write_text(json.dumps(content), encoding="utf-8")
    patient = PATIENTS[0]
    made = await wetread(config, "run", str(path), "--patient", patient)
    assert made.stdout.split() == ["id", patient]


async def test_what_cannot_be_run_leaves_no_file(config: Path) -> None:
    target = config / "none.csv"
    missing = await wetread(config, "run", "nothing", "--output", str(target))
    assert isinstance(missing.exception, NotFound)
    path = config / "wrong.json"
    wrong = {"resource": "Patient", "select": [{"column": [{"name": "n", "path": "name"}]}]}
    path.write_text(json.dumps(wrong), encoding="utf-8")
    refused = await wetread(config, "run", str(path), "--output", str(target))
    assert isinstance(refused.exception, InvalidInput)
    assert not [name for name in names(config) if name.startswith("none.csv")]


def test_the_shipped_views_are_listed() -> None:
    listed = CliRunner().invoke(cli, ["views", "list"])
    assert [line.split()[0] for line in listed.output.splitlines()] == [
        "ai-findings",
        "imaging-studies",
        "reading-turnaround",
    ]
