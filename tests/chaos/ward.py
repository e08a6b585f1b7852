"""A server of its own with an EHR and the endpoint of its subscriptions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import psycopg

from tests.flow.conftest import Hospital, Server, configuration
from tests.flow.subscribing.client import Client
from tests.ports import free_port
from tests.subscriber import subscriber
from wetread.demo import peers
from wetread.store import embedded

OTHERS = ("http", "mllp", "work")
"""The roles that subscriptions need, but for that which notifies."""


@dataclass(frozen=True)
class Ward:
    hospital: Hospital
    ehr: Client

    @contextmanager
    def database(self) -> Iterator[psycopg.Connection]:
        with (
            embedded.borrowed(self.hospital.server.data_dir) as url,
            psycopg.connect(url, autocommit=True) as conn,
        ):
            yield conn

    @contextmanager
    def another_notifier(self, environment: Mapping[str, str] | None = None) -> Iterator[Server]:
        """A process of the role notify on the same database."""
        own = self.hospital.server
        with embedded.borrowed(own.data_dir) as url:
            ours = {**(environment or {}), "WETREAD_DATABASE_URL": url}
            server = Server(own.config, own.data_dir, {}, ours, ("--roles", "notify"))
            server.start()
            try:
                yield server
            finally:
                server.kill()


@contextmanager
def ward_in(
    folder: Path, *, environment: Mapping[str, str] | None = None, roles: tuple[str, ...] = (*OTHERS, "notify")
) -> Iterator[Ward]:
    """A running one, with a token for its EHR that is good for three days."""
    ports = {name: free_port() for name in ("http", "mllp", "dicom")}
    nobody = {name: free_port() for name in ("archive", "alerts")}
    config = folder / "wetread.toml"
    config.write_text(configuration(ports, nobody))
    served = {name: port for name, port in ports.items() if name in roles}
    server = Server(config, folder / "data", served, environment or {}, ("--roles", ",".join(roles)))
    server.start()
    try:
        server.wait_ready()
        hospital = Hospital(server, peers.Heard(), 0)
        with subscriber() as endpoint, hospital.client(lifetime=timedelta(days=3)) as http:
            yield Ward(hospital, Client(http, endpoint))
    finally:
        server.stop()
