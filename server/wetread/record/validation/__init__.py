"""Whether content may be stored: R4's definitions of types, and profiles."""
