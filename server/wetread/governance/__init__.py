"""Which model may be seen, and what was kept from being seen."""
