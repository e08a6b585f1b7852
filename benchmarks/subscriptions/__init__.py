"""Subscriptions under load: what matching costs, how fast and how soon notifications arrive, and HAPI beside it."""
