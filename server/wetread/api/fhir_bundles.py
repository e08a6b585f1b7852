"""Batch and transaction (FHIR R4 http.html 3.1.0.11)."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from wetread.api import fhir_http as http
from wetread.api.fhir_audit import Visit
from wetread.api.fhir_face import Face
from wetread.api.fhir_outcome import MEDIA_TYPE, outcome
from wetread.domain.reader import Reader
from wetread.errors import WetreadError
from wetread.record import bundle, lossless
from wetread.record.audit.audit import AuditEntry
from wetread.record.bundle_entry import Entry, read
from wetread.store.database import Connection


@dataclass(frozen=True, slots=True)
class Bundles:
    face: Face

    async def process(self, request: Request) -> Response:
        async with self.face.visit(request, "batch") as (one, reader):
            asked = await read(await http.resource_text(request, self.face.max_body_bytes), self.face.database.bases)
            one.interaction = "transaction" if asked.is_transaction else "batch"
            manner = bundle.Manner(
                self.face.base_url,
                returns=http.returns(request),
                strict=http.prefers(request, "handling") == "strict",
                may_create=self.face.update_create,
                cursors=self.face.cursors,
            )
            if asked.is_transaction:
                entries = [entry for entry in asked.entries if isinstance(entry, Entry)]
                texts = await self._transaction(entries, one, reader, manner)
            else:
                texts = [await self._batched(entry, one, reader, manner) for entry in asked.entries]
                async with self.face.database.transaction() as conn:
                    await one.record(conn)
            body = bundle.response(texts, is_transaction=asked.is_transaction)
            return Response(body, media_type=MEDIA_TYPE)

    async def _transaction(self, entries: list[Entry], one: Visit, reader: Reader, manner: bundle.Manner) -> list[str]:
        async def work(conn: Connection) -> list[str]:
            async with conn.pipeline():  # hundreds of statements, of which few are waited for
                done = await bundle.transact(conn, reader, entries, manner)
                told = [entry for each in done for entry in await self._told(conn, one, reader, each)]
                await one.write(conn, [*one.successes(), *told])
            return [each.text for each in done]

        return await self.face.database.retried(work)

    async def _batched(self, entry: Entry | WetreadError, one: Visit, reader: Reader, manner: bundle.Manner) -> str:
        """One entry of a batch: a unit of work of its own, that fails alone."""

        async def work(conn: Connection) -> str:
            if isinstance(entry, WetreadError):
                raise entry
            [done] = await bundle.transact(conn, reader, [entry], manner)
            await one.write(conn, await self._told(conn, one, reader, done))
            return done.text

        try:
            return await self.face.database.retried(work)
        except WetreadError as error:
            failed = one.entry(*_asked(entry)) if isinstance(entry, Entry) else one
            async with self.face.database.transaction() as conn:
                await failed.record_failure(conn, error)
            response = {"status": http.status_line(error.http_status), "outcome": outcome(error)}
            return lossless.dump({"response": response})

    async def _told(self, conn: Connection, one: Visit, reader: Reader, done: bundle.Done) -> list[AuditEntry]:
        """Tells `on_write` what an entry did; gives what the audit is to be told."""
        if done.written is not None:
            await self.face.on_write(conn, reader, *done.written)
        interaction, _, query = _asked(done.entry)
        return one.entry(interaction, done.what, query).successes(patient_ids=done.patient_ids)


def _asked(entry: Entry) -> tuple[str, str, bytes]:
    """Interaction, what it is about, and, of a search, its request."""
    if not entry.interaction.startswith("search"):
        return entry.interaction, entry.what, b""
    steps = [*(entry.compartment or ()), entry.resource_type]
    return entry.interaction, "", f"{'/'.join(step for step in steps if step)}?{entry.query}".encode()
