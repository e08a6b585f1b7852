"""Finding resources: parameters, their index, conditions, pages (FHIR R4 search.html)."""
