"""Durable work: a thin, typed port on the job engine (Procrastinate). Knows no medicine."""
