"""What leaves: deliveries over MLLP, DICOM and HTTP."""
