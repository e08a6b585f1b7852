// What arrives and how it is followed: wetread.mapping.orders, wetread.reading.tasks, wetread.reading.imaging_study.

Profile: AIReadingTask
Parent: Task
Id: ai-reading-task
Title: "AI reading Task"
Description: "How the AI reading of an order, or of a study that nobody ordered, stands."
* insert Ours
* insert TypedIdentifiers
* insert OrderNumbers
* basedOn only Reference(ServiceRequest)
* basedOn 0..1
* status from AIReadingTaskStatus (required)
* statusReason ^short = "Why it waits, was refused or failed"
* intent from AIReadingTaskIntent (required)
* intent ^short = "order, or proposal where nobody ordered the study"
* code 1..1
* code = $WETREAD#ai-reading
* focus 1..1
* focus only Reference(ServiceRequest or ImagingStudy)
* focus ^short = "The order, and from its arrival on the study"
* for 1..1
* for only Reference(Patient)
* input.type from AIReadingTaskInput (required)
* input.value[x] only string
* input ^short = "What the routing rules decided"
* output.type.text 1..1
* output.value[x] only Reference(AIObservation or AIDiagnosticReport)
* output ^short = "The results"

RuleSet: OrderNumbers
* identifier contains placer 0..1 and filler 0..1 and accession 0..1
* identifier[placer] ^short = "Placer order number (ORC-2)"
* identifier[placer].type 1..1
* identifier[placer].type = $IdentifierType#PLAC
* identifier[placer].value 1..1
* identifier[filler] ^short = "Filler order number (ORC-3)"
* identifier[filler].type 1..1
* identifier[filler].type = $IdentifierType#FILL
* identifier[filler].value 1..1
* identifier[accession] ^short = "Accession number"
* identifier[accession].type 1..1
* identifier[accession].type = $IdentifierType#ACSN
* identifier[accession].value 1..1

Profile: ImagingServiceRequest
Parent: ServiceRequest
Id: imaging-servicerequest
Title: "Imaging ServiceRequest"
Description: "An imaging order as an HL7 v2 message told it."
* insert Ours
* identifier 1..*
* insert TypedIdentifiers
* insert OrderNumbers
* identifier ^short = "The order's numbers, and the Study Instance UID where the message says it (urn:dicom:uid)"
* intent = #order
* category 1..*
* category ^slicing.discriminator.type = #pattern
* category ^slicing.discriminator.path = "$this"
* category ^slicing.rules = #open
* category contains imaging 1..1
* category[imaging] = $SCT#363679005
* orderDetail ^short = "The DICOM modality, and further procedure codes"
* subject only Reference(Patient)

Profile: WetreadImagingStudy
Parent: ImagingStudy
Id: imaging-study
Title: "ImagingStudy"
Description: "A study as its DICOM headers tell it: registered while images arrive, available and with its instances listed once it is complete."
* insert Ours
* identifier 1..*
* identifier ^slicing.discriminator.type = #value
* identifier ^slicing.discriminator.path = "system"
* identifier ^slicing.rules = #open
* identifier ^short = "Study Instance UID, accession number (type ACSN)"
* identifier contains studyInstanceUid 1..1
* identifier[studyInstanceUid] insert DicomUid
* modality.system 1..1
* modality.system = $DCM
* modality.code 1..1
* subject only Reference(Patient)
* basedOn 0..1
* basedOn only Reference(ServiceRequest)
* numberOfSeries 1..1
* numberOfInstances 1..1
* series 1..*
* series.modality.system 1..1
* series.modality.system = $DCM
* series.modality.code 1..1
* series.numberOfInstances 1..1
* series.instance.sopClass.system 1..1
* series.instance.sopClass.system = "urn:ietf:rfc:3986"
* series.instance.sopClass.code 1..1

Extension: OriginalCode
Id: original-code
Title: "The sender's code"
Description: "The code that an HL7 v2 message carried, where no code map knows it and a binding of FHIR R4 forced another code."
* insert Ours
* ^context.type = #element
* ^context.expression = "Element"
* . 0..1
* . ^short = "The sender's code"
* . ^definition = "The code that an HL7 v2 message carried, as sent."
* value[x] 1..1
* value[x] only string

Instance: DiagnosticReport-imagingStudy
InstanceOf: SearchParameter
Usage: #definition
* url = "https://wetread.org/fhir/SearchParameter/DiagnosticReport-imagingStudy"
* version = "0.1.0"
* name = "DiagnosticReportImagingStudy"
* derivedFrom = "https://profiles.ihe.net/RAD/IMR/SearchParameter/DiagnosticReport-ImagingStudy"
* status = #active
* experimental = false
* publisher = "Wetread"
* description = "The reports of an imaging study, as IHE Interactive Multimedia Report (RAD-143) asks for them."
* code = #imagingStudy
* base = #DiagnosticReport
* type = #reference
* expression = "DiagnosticReport.imagingStudy"
* xpath = "f:DiagnosticReport/f:imagingStudy"
* xpathUsage = #normal
* target = #ImagingStudy
* multipleOr = true
* multipleAnd = true
* modifier[0] = #missing
* modifier[+] = #type
* modifier[+] = #identifier

Instance: Observation-interpretation
InstanceOf: SearchParameter
Usage: #definition
* url = "https://wetread.org/fhir/SearchParameter/Observation-interpretation"
* version = "0.1.0"
* name = "ObservationInterpretation"
* status = #active
* experimental = false
* publisher = "Wetread"
* description = "The observations of an interpretation, such as positive (POS) or critical (AA)."
* code = #interpretation
* base = #Observation
* type = #token
* expression = "Observation.interpretation"
* xpath = "f:Observation/f:interpretation"
* xpathUsage = #normal
* multipleOr = true
* multipleAnd = true
* modifier[0] = #missing
* modifier[+] = #text
* modifier[+] = #not
* modifier[+] = #in
* modifier[+] = #not-in
* modifier[+] = #above
* modifier[+] = #below

Instance: Observation-bodysite
InstanceOf: SearchParameter
Usage: #definition
* url = "https://wetread.org/fhir/SearchParameter/Observation-bodysite"
* version = "0.1.0"
* name = "ObservationBodySite"
* status = #active
* experimental = false
* publisher = "Wetread"
* description = "The observations of a body site."
* code = #bodysite
* base = #Observation
* type = #token
* expression = "Observation.bodySite"
* xpath = "f:Observation/f:bodySite"
* xpathUsage = #normal
* multipleOr = true
* multipleAnd = true
* modifier[0] = #missing
* modifier[+] = #text
* modifier[+] = #not
* modifier[+] = #in
* modifier[+] = #not-in
* modifier[+] = #above
* modifier[+] = #below

Instance: Binary-securityContext
InstanceOf: SearchParameter
Usage: #definition
* url = "https://wetread.org/fhir/SearchParameter/Binary-securityContext"
* version = "0.1.0"
* name = "BinarySecurityContext"
* status = #active
* experimental = false
* publisher = "Wetread"
* description = "The binaries that are protected as some resource is: who may see that may see them (FHIR R4 binary.html 2.40.4)."
* code = #securityContext
* base = #Binary
* type = #reference
* expression = "Binary.securityContext"
* xpath = "f:Binary/f:securityContext"
* xpathUsage = #normal
* multipleOr = true
* multipleAnd = true
* modifier[0] = #missing
* modifier[+] = #type
* modifier[+] = #identifier

CodeSystem: OrderAction
Id: order-action
Title: "What is done with an order"
Description: "What Wetread does with an order for its order control code (HL7 v2 table 0119); mappings/codes/order-control.yaml says which code asks for which."
* insert Ours
* ^caseSensitive = true
* #create "Create" "The order is new, or takes the place of an equal one."
* #update "Update" "What is ordered is told anew."
* #cancel "Cancel" "The order ends before its study was read."
* #discontinue "Discontinue" "The order ends; what was read stays."
* #hold "Hold" "The order waits."
* #release "Release" "The order waits no longer."
* #status "Status" "The order's status changes, and nothing else."
* #number "Number" "The order gets a number that it did not have."
* #replace "Replace" "The order takes the place of another."
* #replaced "Replaced" "Another order takes the place of this one."
* #reject "Reject" "The order was not accepted by who was to fill it."
* #none "None" "An answer or a request that changes no order."
