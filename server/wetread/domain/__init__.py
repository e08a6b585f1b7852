"""Nouns and rules of the wet read: plain Python, no input or output."""
