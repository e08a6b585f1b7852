"""Topic-based subscriptions: from the event log to notifications that are due."""
