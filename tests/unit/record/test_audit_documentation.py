"""Every kind of audit event is documented, with its codes."""

import re
from pathlib import Path

from fhir.resources.R4B.codesystem import CodeSystem

from wetread.record.audit.kinds import KINDS, OWN

ROOT = Path(__file__).parents[3]
ROW = re.compile(r"^\| `(?P<kind>[^`]+)` \| [^|]+ \| `(?P<type>[^`]+)` \| (?P<subtypes>[^|]+) \|$", re.MULTILINE)


def test_the_page_describes_every_kind_with_its_codes() -> None:
    rows = {row["kind"]: row for row in ROW.finditer((ROOT / "docs" / "audit.md").read_text())}
    assert set(rows) == set(KINDS)
    for name, kind in KINDS.items():
        assert rows[name]["type"].rpartition("#")[2] == kind.type.code, name
        codes = [code.rpartition("#")[2] for code in re.findall(r"`([^`]+)`", rows[name]["subtypes"])]
        assert codes == [coding.code for coding in kind.subtypes], name


def test_the_code_system_defines_every_code_of_our_own() -> None:
    system = CodeSystem.model_validate_json((ROOT / "conformance" / "codesystem-audit.json").read_bytes())
    defined = {concept.code: concept.display for concept in system.concept}
    used = {coding.code: coding.display for kind in KINDS.values() for coding in kind.subtypes if coding.system == OWN}
    assert system.url == OWN
    assert system.count == len(defined)
    assert defined == {**used, "governance-only": "For governance only"}
