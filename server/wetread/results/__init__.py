"""Findings become documents: FHIR, DICOM SR, SEG and presentation states, HL7 v2 ORU. Pure functions, no I/O."""
