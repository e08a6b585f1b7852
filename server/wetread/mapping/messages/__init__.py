"""The other way: a FHIR resource as an HL7 v2 message, by the maps in `mappings/messages/`."""
