"""The picture of a run's finding, for viewers and pages."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from wetread.api.audited import access
from wetread.api.credentials import Authenticate
from wetread.api.ops import refused
from wetread.domain.reader import Reader
from wetread.errors import WetreadError
from wetread.reading import pictures
from wetread.record.audit import audit
from wetread.store.blobs import LocalBlobs
from wetread.store.database import Database


def router(database: Database, blobs: LocalBlobs, authenticate: Authenticate) -> APIRouter:
    routes = APIRouter(prefix="/api", tags=["staff"])

    @routes.get("/runs/{run_id}/picture", response_class=Response, responses={200: {"content": {"image/png": {}}}})
    async def show_picture(request: Request, run_id: str) -> Response:
        """A PNG: the key image of the run with its findings drawn on it."""
        reader: Reader | None = None
        try:
            reader = await authenticate(request)
            async with database.transaction() as conn:
                content = await pictures.picture(conn, reader, blobs, run_id)
                await audit.write(conn, access(request, reader, "instance-accessed", "R"))
        except WetreadError as error:
            await refused(database, request, reader, error)
            raise
        return Response(
            content,
            media_type="image/png",
            headers={"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"},
        )

    return routes
