"""Create, update, patch and delete, by id or by condition (FHIR R4 http.html 3.1.0.7 to 3.1.0.10).

A write that others are in the way of is done again a few times; nothing is told to anyone before its commit.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from wetread.api import fhir_http as http
from wetread.api.fhir_audit import Visit
from wetread.api.fhir_face import Face, patients, reference, require_type, require_writable
from wetread.domain.reader import Reader
from wetread.errors import InvalidInput, NotFound
from wetread.record import conditional, fhirpath_patch, lossless, patch, resources
from wetread.record.aside import aside
from wetread.record.compartment import patients_of
from wetread.record.resources import Accepted, Version
from wetread.record.validation import validate
from wetread.store.database import Connection


@dataclass(frozen=True, slots=True)
class Writes:
    face: Face

    async def create(self, request: Request, resource_type: str) -> Response:
        async with self.face.visit(request, "create", resource_type) as (one, reader):
            require_writable(resource_type)
            reader.require_some("c", resource_type)
            accepted = await self._resource(request, resource_type)
            condition = request.headers.get("if-none-exist")

            async def work(conn: Connection) -> tuple[Version, bool]:
                return await resources.create(conn, accepted, if_none_exist=condition, reader=reader)

            return await self._written(request, one, reader, work, tells_unless_created=False)

    async def update(self, request: Request, resource_type: str, resource_id: str) -> Response:
        async with self.face.visit(request, "update", resource_type, resource_id) as (one, reader):
            require_writable(resource_type)
            reader.require_some("u", resource_type)
            accepted = await self._resource(request, resource_type)
            if accepted.content.get("id") != resource_id:
                raise InvalidInput("the resource's id is not that of the URL", location=f"{resource_type}.id")
            if_match, only_new = http.if_match(request), http.only_new(request)

            async def work(conn: Connection) -> tuple[Version, bool]:
                return await resources.update(
                    conn, reader, accepted, if_match=if_match, only_new=only_new, may_create=self.face.update_create
                )

            return await self._written(request, one, reader, work)

    async def update_by_condition(self, request: Request, resource_type: str) -> Response:
        async with self.face.visit(request, "update", resource_type) as (one, reader):
            require_writable(resource_type)
            reader.require_some("u", resource_type)
            condition, if_match = http.condition(request), http.if_match(request)
            accepted = await self._resource(request, resource_type)

            async def work(conn: Connection) -> tuple[Version, bool]:
                return await conditional.update(
                    conn, reader, accepted, condition, if_match=if_match, may_create=self.face.update_create
                )

            return await self._written(request, one, reader, work)

    async def patch(self, request: Request, resource_type: str, resource_id: str) -> Response:
        async with self.face.visit(request, "patch", resource_type, resource_id) as (one, reader):
            change = await self._change(request, reader, resource_type)
            if_match = http.if_match(request)

            async def work(conn: Connection) -> tuple[Version, bool]:
                version = await resources.patch(conn, reader, resource_type, resource_id, change, if_match=if_match)
                return version, False

            return await self._written(request, one, reader, work)

    async def patch_by_condition(self, request: Request, resource_type: str) -> Response:
        async with self.face.visit(request, "patch", resource_type) as (one, reader):
            condition, if_match = http.condition(request), http.if_match(request)
            change = await self._change(request, reader, resource_type)

            async def work(conn: Connection) -> tuple[Version, bool]:
                found = await resources.held_match(conn, reader, resource_type, condition)
                if found is None:
                    raise NotFound(f"no {resource_type} matches the condition")
                return await resources.patch(conn, reader, resource_type, found.id, change, if_match=if_match), False

            return await self._written(request, one, reader, work)

    async def delete(self, request: Request, resource_type: str, resource_id: str) -> Response:
        async with self.face.visit(request, "delete", resource_type, resource_id) as (one, reader):
            require_writable(resource_type)
            reader.require_some("d", resource_type)
            if_match = http.if_match(request)

            async def work(conn: Connection) -> Version | None:
                return await self._delete(conn, one, reader, resource_type, resource_id, if_match)

            return http.deleted_response(request, await self.face.database.retried(work))

    async def delete_by_condition(self, request: Request, resource_type: str) -> Response:
        """Deletes the one match; none is as well (3.1.0.7.1, conditionalDelete single)."""
        async with self.face.visit(request, "delete", resource_type) as (one, reader):
            require_writable(resource_type)
            reader.require_some("d", resource_type)
            condition, if_match = http.condition(request), http.if_match(request)

            async def work(conn: Connection) -> Version | None:
                found = await resources.held_match(conn, reader, resource_type, condition)
                if found is not None:
                    return await self._delete(conn, one, reader, resource_type, found.id, if_match)
                resources.require_version(None, if_match)
                await one.record(conn)
                return None

            return http.deleted_response(request, await self.face.database.retried(work))

    async def _resource(self, request: Request, resource_type: str) -> Accepted:
        text = await http.resource_text(request, self.face.max_body_bytes)
        content = await validate.parsed(text)
        require_type(content, resource_type)
        return Accepted(text, content)

    async def _change(
        self, request: Request, reader: Reader, resource_type: str
    ) -> Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]:
        require_writable(resource_type)
        reader.require_some("u", resource_type)
        text, is_fhirpath = await http.patch_text(request, self.face.max_body_bytes)
        if is_fhirpath:
            return fhirpath_patch.change(await aside(len(text), lambda: fhirpath_patch.parsed(lossless.parse(text))))
        return patch.change(await aside(len(text), lambda: patch.parsed(text)))

    async def _written(
        self,
        request: Request,
        one: Visit,
        reader: Reader,
        work: Callable[[Connection], Awaitable[tuple[Version, bool]]],
        *,
        tells_unless_created: bool = True,
    ) -> Response:
        async def told(conn: Connection) -> tuple[Version, bool]:
            version, created = await work(conn)
            if created or tells_unless_created:
                await self.face.on_write(conn, reader, version.resource_type, version.id, version)
            what = f"{reference(version)}/_history/{version.version_id}"
            await one.record(conn, what, await patients(version, conn.bases))
            return version, created

        version, created = await self.face.database.retried(told)
        return http.written_response(request, version, created=created, base_url=self.face.base_url)

    async def _delete(
        self, conn: Connection, one: Visit, reader: Reader, resource_type: str, resource_id: str, if_match: int | None
    ) -> Version | None:
        patient_ids = await patients_of(conn, resource_type, [resource_id])
        version = await resources.delete(conn, reader, resource_type, resource_id, if_match=if_match)
        if version is not None:
            await self.face.on_write(conn, reader, resource_type, resource_id, None)
        await one.record(conn, f"{resource_type}/{resource_id}", patient_ids if version is not None else ())
        return version
