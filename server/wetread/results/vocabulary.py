"""Coded concepts that documents use beside those of the findings themselves."""

from __future__ import annotations

from wetread.domain.codes import DCM, LOINC, SCT, WETREAD, Coded

CERTAINTY = Coded("111012", DCM, "Certainty of Finding")
"""PS3.16 annex D: the certainty of any finding; 111047 Probability of cancer would claim cancer.

SR carries it in percent, FHIR and HL7 v2 as 0 to 1: UCUM `%` and `1` are commensurable. Always the model's certainty
that the finding is present, also where the conclusion is absent.
"""
TRACKING_UID = Coded("112040", DCM, "Tracking Unique Identifier")
STUDY_INSTANCE_UID = Coded("113014", DCM, "DICOM Study")
"""OBX-3 of the Study Instance UID in IHE results messages (RAD-132)."""
ARTIFICIAL_INTELLIGENCE = Coded("123110", DCM, "Artificial Intelligence")
LATERALITY = Coded("272741003", SCT, "Laterality")
ANATOMICAL_STRUCTURES = frozenset({"91723000", "123037004"})
"""SNOMED codes of the category Anatomical Structure (PS3.16 CID 7150), now and in earlier editions."""
IMAGING_STUDY = Coded("18748-4", LOINC, "Diagnostic imaging study")
PROCEDURE_FINDINGS = Coded("59776-5", LOINC, "Procedure findings Narrative")
AI_READING = Coded("ai-reading", WETREAD, "AI reading of an imaging study")
THRESHOLD = Coded("threshold", WETREAD, "Decision threshold")
DEMO = Coded("DEMO", WETREAD, "Made in a demonstration")
