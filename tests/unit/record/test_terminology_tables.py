"""The terminology that ships is that of the official package, and ours."""

from __future__ import annotations

import runpy
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[3]
DATA = ROOT / "server/wetread/record/data"


def test_it_is_made_from_the_official_package_and_from_our_own_definitions() -> None:
    made = runpy.run_path(str(ROOT / "conformance/r4/terminology.py"))
    with zipfile.ZipFile(DATA / "terminology-r4.zip") as archive:
        kept = {name: archive.read(name).decode() for name in archive.namelist()}
    assert kept == made["core"](), "run conformance/r4/terminology.py"
    assert (DATA / "terminology-own.json").read_text(encoding="utf-8") == made["own"](), "run it again"
    assert len(kept) == 2458
