"""Read, history and search (FHIR R4 http.html 3.1.0.5, 3.1.0.6, 3.1.0.14, 3.1.0.15).

A read is one statement; its audit row is committed before the answer leaves, with those of other reads of the moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from wetread.api import fhir_http as http
from wetread.api.fhir_audit import Visit
from wetread.api.fhir_face import AUDIT_EVENT, Face, patients
from wetread.api.fhir_outcome import MEDIA_TYPE
from wetread.domain.reader import Reader
from wetread.errors import NotFound
from wetread.record import events, history, resources
from wetread.record.audit import audit as audit_record
from wetread.record.search import search
from wetread.record.time_limit import time_limit

_ADVICE = "ask for a resource, or since a moment"


@dataclass(frozen=True, slots=True)
class Reads:
    face: Face

    async def read(self, request: Request, resource_type: str, resource_id: str) -> Response:
        async with self.face.visit(request, "read", resource_type, resource_id) as (one, reader):
            if resource_type == AUDIT_EVENT:
                async with self.face.database.transaction() as conn:
                    body = await audit_record.read(conn, reader, resource_id)
                    await one.record(conn)
                return Response(body, media_type=MEDIA_TYPE)
            async with self.face.database.statements() as conn:
                version, patient_ids = await resources.read_of_patients(conn, reader, resource_type, resource_id)
            await self._recorded(one, patient_ids)
            return await http.read_response(request, version)

    async def _recorded(self, one: Visit, patient_ids: Sequence[str]) -> None:
        """Returns once it is on record what was read."""
        await self.face.groups.write(one.successes(patient_ids=patient_ids))

    async def vread(self, request: Request, resource_type: str, resource_id: str, version_id: str) -> Response:
        what = (resource_type, resource_id, "_history", version_id)
        async with self.face.visit(request, "vread", *what) as (one, reader):
            if not (version_id.isascii() and version_id.isdigit() and len(version_id) < 10):
                raise NotFound("no such version here; versions are whole numbers")
            async with self.face.database.statements() as conn:
                version = await resources.vread(conn, reader, resource_type, resource_id, int(version_id))
            await self._recorded(one, await patients(version, self.face.database.bases))
            return await http.read_response(request, version)

    async def history_of_resource(self, request: Request, resource_type: str, resource_id: str) -> Response:
        async with self.face.visit(request, "history-instance", resource_type, resource_id) as (one, reader):
            async with time_limit(search.TIME_LIMIT_S, "history", _ADVICE), self.face.database.statements() as conn:
                found = await history.of_resource(
                    conn,
                    reader,
                    resource_type,
                    resource_id,
                    http.query(request),
                    self.face.base_url,
                    cursors=self.face.cursors,
                )
            await self._recorded(one, found.patient_ids)
            return Response(found.body, media_type=MEDIA_TYPE)

    async def history_of_type(self, request: Request, resource_type: str) -> Response:
        async with self.face.visit(request, "history-type", resource_type) as (one, reader):
            await self._settle()
            async with time_limit(search.TIME_LIMIT_S, "history", _ADVICE), self.face.database.statements() as conn:
                found = await history.of_type(
                    conn, reader, resource_type, http.query(request), self.face.base_url, cursors=self.face.cursors
                )
            await self._recorded(one, found.patient_ids)
            return Response(found.body, media_type=MEDIA_TYPE)

    async def history_of_system(self, request: Request) -> Response:
        async with self.face.visit(request, "history-system") as (one, reader):
            await self._settle()
            async with time_limit(search.TIME_LIMIT_S, "history", _ADVICE), self.face.database.statements() as conn:
                found = await history.of_system(
                    conn, reader, http.query(request), self.face.base_url, cursors=self.face.cursors
                )
            await self._recorded(one, found.patient_ids)
            return Response(found.body, media_type=MEDIA_TYPE)

    async def _settle(self) -> None:
        """Numbers what was just written, in a transaction of its own, so that a page shows it in its final place."""
        async with self.face.database.transaction() as conn:
            await events.settle(conn)

    async def search(self, request: Request, resource_type: str) -> Response:
        async with self.face.visit(request, "search-type") as (one, reader):
            if resource_type == AUDIT_EVENT:
                return await self._search_audit(request, one, reader)
            return await self._search(request, one, reader, resource_type, None)

    async def search_system(self, request: Request) -> Response:
        async with self.face.visit(request, "search-system") as (one, reader):
            return await self._search(request, one, reader, "", None)

    async def search_compartment(self, request: Request, resource_type: str, resource_id: str, inner: str) -> Response:
        async with self.face.visit(request, "search-type") as (one, reader):
            resources.require_identity(resource_type, resource_id)
            return await self._search(request, one, reader, "" if inner == "*" else inner, (resource_type, resource_id))

    async def _search(
        self, request: Request, one: Visit, reader: Reader, resource_type: str, compartment: tuple[str, str] | None
    ) -> Response:
        asked = search.SearchRequest(
            resource_type,
            await self._parameters(request, one),
            self.face.base_url,
            compartment=compartment,
            strict=http.prefers(request, "handling") == "strict",
            cursors=self.face.cursors,
        )
        async with self.face.database.statements() as conn:
            found = await search.search(conn, reader, asked)
        await self._recorded(one, found.patient_ids)
        return Response(found.body, media_type=MEDIA_TYPE)

    async def _search_audit(self, request: Request, one: Visit, reader: Reader) -> Response:
        params = await self._parameters(request, one)
        async with (
            time_limit(search.TIME_LIMIT_S, "search", "ask for a patient, an agent or a period"),
            self.face.database.transaction() as conn,
        ):
            body = await audit_record.search(conn, reader, params, self.face.base_url)
            await one.record(conn)
        return Response(body, media_type=MEDIA_TYPE)

    async def _parameters(self, request: Request, one: Visit) -> list[tuple[str, str]]:
        """Those of the URL and, of a POST, those of the form, which the audit keeps as they came."""
        params = http.query(request)
        if request.method == "POST":
            form, text = await http.form(request, self.face.max_body_bytes)
            params = [*params, *form]
            one.query += (b"&" if request.url.query else b"?") + text
        return params
