"""The authorization server (RFC 6749, SMART App Launch 2.2): from a request to a token and its end."""
