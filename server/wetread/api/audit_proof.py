"""What others need to check the audit record: the public keys and the signed checkpoints of its chain."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Query, Request, Response
from starlette.responses import JSONResponse

from wetread.api.audited import access
from wetread.api.credentials import Authenticate
from wetread.record.audit import audit, checkpoints
from wetread.store.database import Database


def router(database: Database, authenticate: Authenticate, keys: dict[str, Any]) -> APIRouter:
    """`keys` is a JWK Set of public keys (RFC 7517 5)."""
    routes = APIRouter(prefix="/api/audit", tags=["staff"])

    @routes.get("/keys")
    async def public_keys() -> JSONResponse:
        """The keys that sign checkpoints. They are no secret; keep them elsewhere, with the checkpoints."""
        return JSONResponse(keys, media_type="application/jwk-set+json")

    @routes.get("/checkpoints")
    async def signed_checkpoints(request: Request, since: int = Query(0, ge=0)) -> Response:
        """Checkpoints above a link of the chain, one JSON object each line, as `wetread audit verify --against` reads
        them."""
        reader = await authenticate(request)
        async with database.transaction() as conn:
            lines = [line async for line in checkpoints.export(conn, reader, since)]
            await audit.write(conn, access(request, reader, "audit-read", "R", detail={"what": "checkpoints"}))
        return Response("".join(lines), media_type="application/x-ndjson")

    return routes
