// What a model's reading becomes: wetread.results.fhir.

Profile: AIObservation
Parent: Observation
Id: ai-observation
Title: "AI Observation"
Description: "One finding of an imaging AI model, or one measurement of it, that no person has taken part in. Labelled as the HL7 guide AI Transparency on FHIR says."
* insert Ours
* insert AssertedByAI
* text 1..1
* identifier 1..*
* insert TypedIdentifiers
* identifier contains trackingUid 1..1
* identifier[trackingUid] ^short = "The Tracking Unique Identifier that the finding has in the DICOM SR as well"
* identifier[trackingUid].type 1..1
* identifier[trackingUid].type = $DCM#112040
* identifier[trackingUid] insert DicomUid
* basedOn only Reference(ServiceRequest)
* partOf 1..1
* partOf only Reference(ImagingStudy)
* status from AIObservationStatus (required)
* status ^short = "preliminary until a person has verified it"
* category 1..1
* category = $ObservationCategory#imaging
* code from $AIFinding (preferred)
* code.coding 1..*
* code.coding.system 1..1
* code.coding.code 1..1
* subject 1..1
* subject only Reference(Patient)
* effective[x] only dateTime
* effective[x] ^short = "When the images were acquired"
* issued 1..1
* issued ^short = "When the model read them"
* value[x] only CodeableConcept or Quantity
* valueCodeableConcept from Presence (required)
* valueQuantity.system 1..1
* valueQuantity.system = $UCUM
* valueQuantity.code 1..1
* valueQuantity.value 1..1
* interpretation from AIInterpretation (required)
* interpretation ^short = "AA where the finding is critical and the model may alert"
* bodySite 0..1
* method 1..1
* method = $WETREAD#ai-reading
* device 1..1
* device only Reference(AIDevice)
* device ^short = "The model"
* derivedFrom 1..*
* derivedFrom only Reference(ImagingStudy or Media)
* derivedFrom ^short = "The study, and the DICOM SEG of the finding by its SOP Instance UID"
* component ^slicing.discriminator.type = #pattern
* component ^slicing.discriminator.path = "code"
* component ^slicing.rules = #open
* component ^short = "Certainty, threshold and side; every other component is a measurement"
* component contains certainty 0..1 and threshold 0..1 and laterality 0..1
* component[certainty] ^short = "The model's probability that the finding is present"
* component[certainty].code = $DCM#111012
* component[certainty].value[x] 1..1
* component[certainty].value[x] only Quantity
* component[certainty].valueQuantity insert Ratio
* component[certainty].valueQuantity obeys wr-probability
* component[threshold] ^short = "The probability from which on the finding is called present at this site"
* component[threshold].code = $WETREAD#threshold
* component[threshold].value[x] 1..1
* component[threshold].value[x] only Quantity
* component[threshold].valueQuantity insert Ratio
* component[threshold].valueQuantity obeys wr-probability
* component[laterality].code = $SCT#272741003
* component[laterality].value[x] 1..1
* component[laterality].value[x] only CodeableConcept

Profile: AIDiagnosticReport
Parent: DiagnosticReport
Id: ai-diagnosticreport
Title: "AI DiagnosticReport"
Description: "What one model found in one imaging study. Preliminary, and without resultsInterpreter, until a person has verified it."
* insert Ours
* insert AssertedByAI
* text 1..1
* insert TypedIdentifiers
* identifier ^short = "SOP Instance UID of the DICOM SR of the same reading (urn:dicom:uid), accession number"
* identifier contains accession 0..1
* identifier[accession].type 1..1
* identifier[accession].type = $IdentifierType#ACSN
* identifier[accession].value 1..1
* basedOn only Reference(ServiceRequest)
* status from AIReportStatus (required)
* status ^short = "preliminary until a person has verified it"
* category 1..*
* category ^slicing.discriminator.type = #pattern
* category ^slicing.discriminator.path = "$this"
* category ^slicing.rules = #open
* category ^short = "Radiology, and the DICOM modality"
* category contains radiology 1..1
* category[radiology] = $DiagnosticService#RAD
* code.coding 1..*
* code.coding ^slicing.discriminator.type = #pattern
* code.coding ^slicing.discriminator.path = "$this"
* code.coding ^slicing.rules = #open
* code.coding ^short = "The procedure as ordered, and diagnostic imaging study"
* code.coding contains imagingStudy 1..1
* code.coding[imagingStudy] = $LNC#18748-4
* subject 1..1
* subject only Reference(Patient)
* effective[x] only dateTime
* effective[x] ^short = "When the images were acquired"
* issued 1..1
* issued ^short = "When the model read them"
* result only Reference(AIObservation)
* imagingStudy 1..1
* conclusion 1..1
* conclusionCode from $AIFinding (preferred)
* conclusionCode ^short = "The findings that are present"

Profile: AIDevice
Parent: Device
Id: ai-device
Title: "AI Device"
Description: "A model: one ONNX file, known by its digest. It keeps the rules of the profile AI-Device of the HL7 guide AI Transparency on FHIR (http://hl7.org/fhir/uv/aitransparency/StructureDefinition/AI-Device)."
* insert Ours
* meta 1..1
* meta.source 1..1
* text 1..1
* extension contains $AIKind named aiKind 1..*
* identifier 1..1
* identifier.system 1..1
* identifier.system = "urn:wetread:model:sha256"
* identifier.value 1..1
* identifier.value obeys wr-sha256
* identifier ^short = "SHA-256 of the model's file"
* status 1..1
* manufacturer 1..1
* deviceName 1..1
* deviceName.type = #model-name
* modelNumber 1..1
* type 1..1
* type = $AIDeviceType#Artificial-Intelligence (exactly)
* version 1..1
* version.value 1..1
* safety ^short = "Not for clinical use, where the model's package says so"

Invariant: wr-sha256
Description: "A SHA-256 stands as 64 hexadecimal digits in lower case."
Severity: #error
Expression: "matches('^[0-9a-f]{64}$')"

Profile: AIProvenance
Parent: Provenance
Id: ai-provenance
Title: "AI Provenance"
Description: "Which model wrote which results, of which study. It keeps the rules of the profile AI-Provenance of the HL7 guide AI Transparency on FHIR (http://hl7.org/fhir/uv/aitransparency/StructureDefinition/AI-Provenance)."
* insert Ours
* insert AssertedByAI
* text 1..1
* target only Reference(AIObservation or AIDiagnosticReport)
* occurred[x] 1..1
* occurred[x] only dateTime
* reason 1..*
* reason ^slicing.discriminator.type = #pattern
* reason ^slicing.discriminator.path = "$this"
* reason ^slicing.rules = #open
* reason contains aiAsserted 1..1
* reason[aiAsserted] = $ObservationValue#AIAST
* activity 1..1
* activity from ResultActivity (required)
* agent ^slicing.discriminator.type = #pattern
* agent ^slicing.discriminator.path = "type"
* agent ^slicing.rules = #open
* agent contains model 1..1 and custodian 0..1
* agent[model].type 1..1
* agent[model].type = $AgentType#author
* agent[model].role 1..1
* agent[model].role = $AIDeviceType#Artificial-Intelligence (exactly)
* agent[model].who only Reference(AIDevice)
* agent[custodian].type 1..1
* agent[custodian].type = $AgentType#custodian
* agent[custodian] ^short = "The hospital"
* entity 1..*
* entity.role = #source
* entity.what only Reference(ImagingStudy or ServiceRequest or Task)
