"""What calls: registered clients, how they prove themselves, API keys."""
