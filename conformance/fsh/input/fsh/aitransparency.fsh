// Of the HL7 guide AI Transparency on FHIR (HL7/aitransparency-ig, CC0-1.0), of which no package is published yet.

Extension: AIKind
Id: aitransparency.AIKind
Title: "Specific kind of AI technology"
Description: "Expresses the more specific kind(s) of AI technology and techniques."
* ^url = $AIKind
* ^version = "1.0.0-current"
* ^publisher = "HL7 International / Electronic Health Records"
* ^experimental = false
* ^context.type = #element
* ^context.expression = "Device"
* value[x] 1..1
* value[x] only CodeableConcept
