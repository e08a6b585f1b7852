"""Flat tables of the record: ViewDefinitions of SQL on FHIR, run over the store."""
