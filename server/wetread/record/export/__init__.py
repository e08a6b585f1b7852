"""Bulk Data Access: jobs, batches, files."""
