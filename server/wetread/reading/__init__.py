"""The wet read itself: what arrives is settled, inferred, reported, and shown sickest first."""
