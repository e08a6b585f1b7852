"""The audit record: written with what it tells of, chained afterwards, read as AuditEvents."""
