"""DICOM instances and their index: store, find, give back. Knows bytes and headers, not what they mean."""
