"""The HL7 FHIR validator reads the XML that Wetread writes, and says the same of it as of the JSON that it was."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from conformance import validator
from wetread.record.xml_form import to_xml

pytestmark = pytest.mark.conformance

EXAMPLES = Path(__file__).parents[1] / "data/fhir/examples.tar.xz"
NAMES = """
    bundle-example diagnosticreport-example imagingstudy-example-xr observation-example-f001-glucose
    operationoutcome-example parameters-example patient-example patient-example-chinese
    questionnaire-example-f201-lifelines task-example1 valueset-example binary-example
"""


def test_the_hl7_validator_reads_our_xml_as_it_reads_json(tmp_path: Path) -> None:
    files = []
    with tarfile.open(EXAMPLES) as archive:
        for name in NAMES.split():
            stream = archive.extractfile(f"./{name}.json")
            assert stream is not None
            text = stream.read().decode("utf-8-sig")
            for form, content in (("json", text), ("xml", to_xml(text, pretty=name.startswith("p")))):
                files.append(tmp_path / f"{name}.{form}")
                files[-1].write_text(content, encoding="utf-8")
    said = validator.validate(files)
    of_form = {
        form: sorted((Path(i.file).stem, i.severity, i.message_id, i.location) for i in said if i.file.endswith(form))
        for form in ("json", "xml")
    }
    assert of_form["xml"] == of_form["json"]
    assert len(of_form["xml"]) > len(NAMES.split())
