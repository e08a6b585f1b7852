"""What arrives: DICOM associations and MLLP connections."""
