"""The demonstration: open images made into studies, and the orders that belong to them."""
