"""The system of record: versioned FHIR R4 resources, their index, search, events and audit."""
