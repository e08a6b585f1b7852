"""One visit to the FHIR face, and what it leaves in the audit: a row in the transaction of what was done, or, when it
failed, a row of its own. Nothing answers before its row is committed."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from starlette.requests import Request

from wetread.domain.reader import Reader
from wetread.errors import Refused, Unreachable, WetreadError
from wetread.record.audit.audit import Asker, AuditEntry, Entity
from wetread.store.database import Connection, Database

logger = logging.getLogger(__name__)

AuditHook: TypeAlias = Callable[[Connection, Sequence[AuditEntry]], Awaitable[list[str]]]
"""`record.audit.write_many`, or what stands for it."""

ACTIONS = {
    **dict.fromkeys(("read", "vread", "history-instance", "history-type", "history-system"), "R"),
    **{"create": "C", "update": "U", "patch": "U", "delete": "D"},
}
_LONGEST_QUERY_BYTES = 16 * 1024
_REQUEST_ID = re.compile(r"[\w.:\-]{1,128}", re.ASCII)


@dataclass(slots=True)
class Visit:
    """`interaction` is a restful-interaction code and a kind of audit event; `query` a search as it came."""

    request: Request
    interaction: str
    write: AuditHook
    what: str = ""
    query: bytes = b""
    request_id: str = ""
    reader: Reader | None = None

    async def record(self, conn: Connection, what: str = "", patient_ids: Sequence[str] = ()) -> None:
        """Adds the success to the caller's transaction, in one statement."""
        await self.write(conn, self.successes(what, patient_ids))

    def successes(self, what: str = "", patient_ids: Sequence[str] = ()) -> list[AuditEntry]:
        """A row for each patient touched, one where none was."""
        entry = self._entry(what or self.what, "0", patient_ids[0] if patient_ids else None)
        return [entry, *(replace(entry, patient_id=patient_id) for patient_id in patient_ids[1:])]

    def entry(self, interaction: str, what: str = "", query: bytes = b"") -> Visit:
        """The visit that one entry of a Bundle makes."""
        return replace(self, interaction=interaction, what=what, query=query)

    async def record_failure(self, conn: Connection, error: BaseException) -> None:
        """Adds the failure: outcome 4 where the caller is refused, 8 where something is away, 12 where we are wrong."""
        outcome = "4" if isinstance(error, Refused) else "8" if isinstance(error, Unreachable) else "12"
        text = error.message if isinstance(error, WetreadError) else "unexpected fault"
        await self.write(conn, [replace(self._entry(self.what, outcome), outcome_text=text)])

    def _entry(self, what: str, outcome: str, patient_id: str | None = None) -> AuditEntry:
        asker = Asker.of(self.reader)
        entities = []
        if what:
            entities.append(Entity(what=what))
        if self.query:
            entities.append(Entity(type_code="2", role_code="24", query=_bounded(self.query)))
        return AuditEntry(
            kind=self.interaction,
            action=ACTIONS.get(self.interaction, "E"),
            outcome=outcome,
            principal=asker.principal,
            user=asker.user,
            client_id=asker.client_id,
            token_id=asker.token_id,
            roles=asker.roles,
            patient_id=patient_id,
            network=self.request.client.host if self.request.client else "",
            entities=tuple(entities),
            request_id=self.request_id,
        )


def _bounded(query: bytes) -> bytes:
    """A query as it came; of a very long one its start and its digest, since a row for each patient keeps it."""
    if len(query) <= _LONGEST_QUERY_BYTES:
        return query
    return query[:_LONGEST_QUERY_BYTES] + b" ... sha256:" + hashlib.sha256(query).hexdigest().encode()


@contextlib.asynccontextmanager
async def visit(
    request: Request, interaction: str, database: Database, write: AuditHook, *, what: str = ""
) -> AsyncIterator[Visit]:
    """A visit whose failure, whatever it is, is audited before it goes on its way."""
    given = request.headers.get("x-request-id", "")
    request_id = given if _REQUEST_ID.fullmatch(given) else str(uuid.uuid4())
    request.state.request_id = request_id
    query = f"{request.url.path}?{request.url.query}".encode() if request.url.query else b""
    if not query and interaction.startswith("search"):
        query = request.url.path.encode()
    one = Visit(request, interaction, write, what, query, request_id)
    try:
        yield one
    except Exception as error:
        try:
            async with database.transaction() as conn:
                await one.record_failure(conn, error)
        except Unreachable:
            logger.error("a failed %s could not be audited: the database does not answer", interaction)
        raise
