"""Liveness, readiness and metrics."""

from __future__ import annotations

from collections.abc import Iterator, Sized

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from starlette.responses import JSONResponse, PlainTextResponse, Response

from wetread.api.credentials import Authenticate
from wetread.api.subscription_metrics import subscription_metrics
from wetread.errors import Unreachable
from wetread.store.database import Database

_JOBS = """
    SELECT CASE WHEN j.status = 'todo' AND j.scheduled_at > now() THEN 'scheduled' ELSE j.status::text END,
           count(*) FROM procrastinate_jobs j
     WHERE NOT EXISTS (SELECT 1 FROM run WHERE run.id = j.args->>'run_id' AND run.phase = 'silent')
     GROUP BY 1
"""
_LAG = """
    SELECT 'chain', count(*) FROM audit_unchained
    UNION ALL
    SELECT name, greatest(0, coalesce((SELECT max(seq) FROM audit_chain), 0) - seq) FROM audit_stream
"""
_GAUGES = (
    ("wetread_messages", "HL7v2 messages by state", "SELECT state, count(*) FROM hl7_message GROUP BY state"),
    ("wetread_studies", "Studies by state", "SELECT state, count(*) FROM study GROUP BY state"),
    ("wetread_runs", "Model runs by state", "SELECT state, count(*) FROM run WHERE phase <> 'silent' GROUP BY state"),
    ("wetread_deliveries", "Deliveries by state", "SELECT state, count(*) FROM delivery GROUP BY state"),
    ("wetread_jobs", "Steps by state", _JOBS),
    ("wetread_audit_lag", "Audit records that are not yet where they go: in the chain, at a stream's end", _LAG),
)


def router(database: Database, authenticate: Authenticate, sockets: Sized = ()) -> APIRouter:
    """`sockets` are the websockets that are open in this process."""
    routes = APIRouter(tags=["operations"])

    @routes.get("/healthz")
    async def healthz() -> PlainTextResponse:
        """The process answers."""
        return PlainTextResponse("ok\n")

    @routes.get("/readyz")
    async def readyz() -> JSONResponse:
        """The process can do its work: the database answers."""
        try:
            async with database.transaction() as conn:
                await conn.execute("SELECT 1")
        except Unreachable as error:
            return JSONResponse({"ready": False, "reason": error.code}, 503)
        return JSONResponse({"ready": True})

    @routes.get("/metrics")
    async def metrics(request: Request) -> Response:
        """Counts from the database, so that they hold for all processes together, but for open websockets. Silent runs
        are counted in none."""
        await authenticate(request)
        registry = CollectorRegistry(auto_describe=False)
        families: list[Metric] = []
        async with database.transaction() as conn:
            for name, text, query in _GAUGES:
                family = GaugeMetricFamily(name, text, labels=["state"])
                for state, count in await (await conn.execute(query)).fetchall():
                    family.add_metric([state], count)
                families.append(family)
            families += await subscription_metrics(conn)
        families.append(GaugeMetricFamily("wetread_websockets_open", "Websockets open in this process", len(sockets)))
        registry.register(_Collected(families))
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return routes


class _Collected:
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families
