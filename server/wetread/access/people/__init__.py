"""Who signs in: accounts, passwords, second factors, sessions."""
