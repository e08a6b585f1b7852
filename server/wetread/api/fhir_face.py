"""What every route of the FHIR face works with."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from starlette.requests import Request

from wetread.api import fhir_http as http
from wetread.api.credentials import Authenticate
from wetread.api.fhir_audit import AuditHook, Visit, visit
from wetread.domain.reader import Reader
from wetread.errors import InvalidInput, MethodNotAllowed, NotFound
from wetread.record.aside import aside
from wetread.record.audit.groups import Groups
from wetread.record.compartment import patients_named
from wetread.record.cursors import Cursors
from wetread.record.resources import Version
from wetread.record.search.parameters import resource_types
from wetread.record.subscriptions.topics import Topic
from wetread.store.database import Connection, Database

AUDIT_EVENT = "AuditEvent"

OnWrite: TypeAlias = Callable[[Connection, Reader, str, str, Version | None], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Face:
    """`base_url` is what the world calls /fhir, without a slash at its end. `groups` puts reads on record.

    `on_write` is told, in the transaction of each write by a client, what was written: type, id, and its version
    (None for a deletion). What it raises undoes the write. `update_create` lets a PUT make a resource under its id.
    `cursors` seals where pages go on. `topics` are what clients may subscribe to, by canonical.
    """

    database: Database
    authenticate: Authenticate
    audit: AuditHook
    groups: Groups
    base_url: str
    on_write: OnWrite
    max_body_bytes: int
    update_create: bool
    cursors: Cursors
    topics: Mapping[str, Topic]

    @contextlib.asynccontextmanager
    async def visit(self, request: Request, interaction: str, *what: str) -> AsyncIterator[tuple[Visit, Reader]]:
        """An audited visit of someone known, who takes what we answer in."""
        async with visit(request, interaction, self.database, self.audit, what="/".join(what)) as one:
            one.reader = await self.authenticate(request)
            http.require_acceptable(request)
            yield one, one.reader


def reference(version: Version) -> str:
    return f"{version.resource_type}/{version.id}"


async def patients(version: Version, bases: Sequence[str]) -> tuple[str, ...]:
    """Whom a version is about, for the audit; `bases` as in `Connection`."""
    return await aside(len(version.body), lambda: patients_named(version.resource(), bases))


def require_writable(resource_type: str) -> None:
    if resource_type == AUDIT_EVENT:
        raise MethodNotAllowed("audit events are read, not written", location="GET, HEAD")
    if resource_type not in resource_types():
        raise NotFound("no such resource type here; see GET metadata")


def require_type(content: dict[str, object], resource_type: str) -> None:
    if content["resourceType"] != resource_type:
        raise InvalidInput("the resource's type is not that of the URL", location="resourceType")
