ValueSet: Presence
Id: presence
Title: "Present or absent"
Description: "What a model says of a finding (DICOM PS3.16 CID 240)."
* insert Ours
* $SCT#52101004 "Present"
* $SCT#272519000 "Absent"

ValueSet: AIInterpretation
Id: ai-interpretation
Title: "Interpretation of an AI finding"
Description: "How an AI Observation is interpreted. AA is said by a model that may alert, of a finding that its package calls critical."
* insert Ours
* $Interpretation#POS "Positive"
* $Interpretation#NEG "Negative"
* $Interpretation#AA "Critical abnormal"

ValueSet: AIObservationStatus
Id: ai-observation-status
Title: "Status of an AI Observation"
Description: "A model's finding is preliminary when it is written; the others follow by a person's act."
* insert Ours
* $ObservationStatus#preliminary
* $ObservationStatus#final
* $ObservationStatus#amended
* $ObservationStatus#corrected
* $ObservationStatus#cancelled
* $ObservationStatus#entered-in-error

ValueSet: AIReportStatus
Id: ai-report-status
Title: "Status of an AI DiagnosticReport"
Description: "A model's report is preliminary when it is written; the others follow by a person's act."
* insert Ours
* $ReportStatus#preliminary
* $ReportStatus#final
* $ReportStatus#amended
* $ReportStatus#corrected
* $ReportStatus#cancelled
* $ReportStatus#entered-in-error

ValueSet: ResultActivity
Id: result-activity
Title: "Activity of an AI Provenance"
Description: "The first reading of a study creates results, a reading of a later revision of the study updates them."
* insert Ours
* $DataOperation#CREATE "create"
* $DataOperation#UPDATE "revise"

ValueSet: AIReadingTaskStatus
Id: ai-reading-task-status
Title: "Status of an AI reading Task"
Description: "The states of Task that an AI reading passes."
* insert Ours
* http://hl7.org/fhir/task-status#requested
* http://hl7.org/fhir/task-status#accepted
* http://hl7.org/fhir/task-status#rejected
* http://hl7.org/fhir/task-status#in-progress
* http://hl7.org/fhir/task-status#on-hold
* http://hl7.org/fhir/task-status#completed
* http://hl7.org/fhir/task-status#failed
* http://hl7.org/fhir/task-status#cancelled
* http://hl7.org/fhir/task-status#entered-in-error

ValueSet: AIReadingTaskIntent
Id: ai-reading-task-intent
Title: "Intent of an AI reading Task"
Description: "An order asks for the reading, or the study came without one."
* insert Ours
* http://hl7.org/fhir/request-intent#order
* http://hl7.org/fhir/request-intent#proposal

ValueSet: AIReadingTaskInput
Id: ai-reading-task-input
Title: "Inputs of an AI reading Task"
Description: "What the routing rules decided of the study's series."
* insert Ours
* $WETREAD#routing-choice "Routing choice"
* $WETREAD#routing-refusal "Routing refusal"
