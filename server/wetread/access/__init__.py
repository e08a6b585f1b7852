"""A credential becomes a domain.Reader."""
