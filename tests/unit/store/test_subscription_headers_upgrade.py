"""What earlier versions stored of the headers of endpoints is hidden: in what is now, and in what was before."""

from __future__ import annotations

import json
import uuid
from urllib.parse import urlsplit, urlunsplit

import psycopg

from wetread.store import migrate

_CHANNELS = {
    "hook": {"type": "rest-hook", "header": ["Authorization: Bearer a:b", "X-Ward: 7"]},
    "bare": {"type": "rest-hook"},
    "mllp": {"type": "message", "_type": {"extension": []}, "header": ["MSH-5: ENGINE"]},
}


def test_values_of_headers_are_hidden(server_url: str) -> None:
    name = f"upgrade_{uuid.uuid4().hex[:8]}"
    url = urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))
    with psycopg.connect(server_url, autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name}".encode())
        try:
            migrate.upgrade(url, "0018")
            with psycopg.connect(url) as conn:
                for table in ("resource", "resource_version"):
                    _fill(conn, table)
            migrate.upgrade(url)
            with psycopg.connect(url) as conn:
                for table in ("resource", "resource_version"):
                    rows = conn.execute(f"SELECT id, body FROM {table} WHERE NOT deleted".encode()).fetchall()
                    found = {row[0]: json.loads(row[1])["channel"] for row in rows}
                    assert found == {
                        **_CHANNELS,
                        "hook": {"type": "rest-hook", "header": ["Authorization: ***", "X-Ward: ***"]},
                    }
        finally:
            server.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def _fill(conn: psycopg.Connection, table: str) -> None:
    method = {"resource": "", "resource_version": ", method"}[table]
    values = {"resource": "", "resource_version": ", 'PUT'"}[table]
    statement = f"""INSERT INTO {table} (resource_type, id, version_id, last_updated, deleted, body{method})
        VALUES ('Subscription', %s, 1, now(), %s, %s{values})"""
    for id_, channel in _CHANNELS.items():
        body = json.dumps({"resourceType": "Subscription", "id": id_, "channel": channel})
        conn.execute(statement.encode(), (id_, False, body))
    conn.execute(statement.encode(), ("gone", True, ""))
