"""Wetread: the clinical integration server for imaging AI."""

__version__ = "0.1.0"
