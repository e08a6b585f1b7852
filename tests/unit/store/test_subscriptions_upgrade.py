"""Subscriptions of before go on where they were: what was not delivered is due, what was is not sent again."""

from __future__ import annotations

import uuid
from urllib.parse import urlsplit, urlunsplit

import psycopg

from wetread.store import migrate

_CHANNEL = '{"endpoint": "https://ehr.example/hook", "content_type": "application/fhir+json", "content": "id-only", "headers": [], "timeout_s": 10}'  # noqa: E501


def test_cursors_stand_before_the_first_event_that_is_pending(server_url: str) -> None:
    name = f"upgrade_{uuid.uuid4().hex[:8]}"
    url = urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))
    with psycopg.connect(server_url, autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name}".encode())
        try:
            migrate.upgrade(url, "0014")
            with psycopg.connect(url) as conn:
                _fill(conn)
            migrate.upgrade(url)
            with psycopg.connect(url) as conn:
                rows = conn.execute(
                    "SELECT id, delivered, due_at <= now(), channel ->> 'kind' FROM subscription_state ORDER BY id"
                ).fetchall()
                jobs = conn.execute("SELECT task_name FROM procrastinate_jobs").fetchall()
        finally:
            server.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
    assert rows == [
        ("behind", 2, True, "rest-hook"),
        ("done", 3, None, "rest-hook"),
        ("failed", 1, None, "rest-hook"),
        ("fresh", 0, True, "rest-hook"),
    ]
    assert jobs == [("export",)]


def _fill(conn: psycopg.Connection) -> None:
    outcomes = {
        "behind": ("active", ["delivered", "dropped", "pending"]),
        "done": ("active", ["delivered"] * 3),
        "failed": ("error", ["delivered", "pending", "pending"]),
        "fresh": ("requested", []),
    }
    for id_, (status, events) in outcomes.items():
        conn.execute(
            """INSERT INTO subscription_state (id, status, events_since_start, topic, filters, channel, owner)
               VALUES (%s, %s, %s, 'urn:topic', '[]', %s, '{}')""",
            (id_, status, len(events), _CHANNEL),
        )
        for number, outcome in enumerate(events, 1):
            conn.execute(
                """INSERT INTO subscription_event
                   (subscription_id, number, seq, resource_type, resource_id, version_id, kind, at, outcome)
                   VALUES (%s, %s, %s, 'Task', 't', 1, 'create', now(), %s)""",
                (id_, number, number, outcome),
            )
    for task in ("subscription-notify", "subscription-handshake", "export"):
        conn.execute("INSERT INTO procrastinate_jobs (task_name, queue_name) VALUES (%s, 'q')", (task,))
