"""Coded concepts, and the one table that pairs FHIR system URIs with DICOM coding scheme designators (PS3.16 8.1)."""

from __future__ import annotations

from dataclasses import dataclass

SCT = "http://snomed.info/sct"
LOINC = "http://loinc.org"
DCM = "http://dicom.nema.org/resources/ontology/DCM"
UCUM = "http://unitsofmeasure.org"
RADLEX = "http://www.radlex.org"
WETREAD = "https://wetread.org/fhir/CodeSystem/wetread"
"""Codes of our own, where no standard has one. Shipped in `conformance/`."""
PROFILES = "https://wetread.org/fhir/StructureDefinition"
"""What our profiles' canonicals start with. Shipped in `conformance/`."""

_SCHEME_OF_SYSTEM = {SCT: "SCT", LOINC: "LN", DCM: "DCM", UCUM: "UCUM", RADLEX: "RADLEX", WETREAD: "99WETREAD"}
_HL7_TABLE_OF_SYSTEM = {SCT: "SCT", LOINC: "LN", DCM: "DCM", UCUM: "UCUM", RADLEX: "RADLEX", WETREAD: "99WETREAD"}


@dataclass(frozen=True, slots=True)
class Coded:
    """One concept: `system` is the FHIR URI, `display` the human text."""

    code: str
    system: str
    display: str

    @property
    def scheme(self) -> str:
        """The DICOM Coding Scheme Designator (0008,0102); PS3.16 table 8-1. A site's own system is `99LOCAL`."""
        return _SCHEME_OF_SYSTEM.get(self.system, "99LOCAL")

    @property
    def hl7_system(self) -> str:
        """The HL7 v2 coding system name, table 0396."""
        return _HL7_TABLE_OF_SYSTEM.get(self.system, "L")


PRESENT = Coded("52101004", SCT, "Present")
ABSENT = Coded("272519000", SCT, "Absent")
"""PS3.16 CID 240 Present-Absent, and the same codes in FHIR."""
