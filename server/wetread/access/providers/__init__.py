"""Identity providers of the hospital that vouch for people (OpenID Connect Core 1.0)."""
