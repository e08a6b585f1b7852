"""Codecs, bytes to and from values, no sockets: HL7 v2 and MLLP, DICOM."""
