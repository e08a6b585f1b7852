"""Runs the declarative maps of `mappings/`: HL7 v2 orders and patient events become FHIR R4 resources."""
