"""The wet read itself: what arrives, which models read it, and what they say."""
