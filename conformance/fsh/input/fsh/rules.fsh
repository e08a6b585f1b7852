// Rules that several profiles share.

RuleSet: Ours
* ^experimental = false

RuleSet: AssertedByAI
* meta 1..1
* meta.source 1..1
* meta.source ^short = "Base URL of the server that ran the model"
* meta.security ^slicing.discriminator.type = #pattern
* meta.security ^slicing.discriminator.path = "$this"
* meta.security ^slicing.rules = #open
* meta.security contains aiAsserted 1..1
* meta.security[aiAsserted] = $ObservationValue#AIAST
* meta.security[aiAsserted] ^short = "Artificial Intelligence asserted: every element of the resource is the model's"

RuleSet: DicomUid
* system 1..1
* system = "urn:dicom:uid"
* value 1..1
* value obeys wr-dicom-uid

RuleSet: Ratio
* system 1..1
* system = $UCUM
* code 1..1
* code = #1
* value 1..1

RuleSet: TypedIdentifiers
* identifier ^slicing.discriminator.type = #pattern
* identifier ^slicing.discriminator.path = "type"
* identifier ^slicing.rules = #open

Invariant: wr-dicom-uid
Description: "A DICOM UID stands as urn:oid: and the UID of at most 64 characters (PS3.5 9.1)."
Severity: #error
Expression: "matches('^urn:oid:[0-2](\\\\.(0|[1-9][0-9]*))+$') and length() <= 72"

Invariant: wr-probability
Description: "A probability stands between 0 and 1."
Severity: #error
Expression: "value >= 0 and value <= 1"
