"""The JSON API for staff and operators: worklist, studies, messages, deliveries, models, governance.

Every answer's access is audited and committed before the answer leaves.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict

from wetread.api.audited import access
from wetread.api.credentials import Authenticate
from wetread.domain.phase import Phase
from wetread.domain.reader import Reader
from wetread.errors import NotFound, StoreUnavailable, WetreadError
from wetread.governance import display, phases, silent
from wetread.governance.display import Display
from wetread.reading import answers, inbox, outbox, runs, studies, worklist
from wetread.reading.completion import declare_complete
from wetread.reading.joining import Joining
from wetread.reading.models import ModelPackage
from wetread.record.audit import audit
from wetread.store.database import Connection, Database
from wetread.work.jobs import Work


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Resolution(_Body):
    """`service_request_id` null says that the study has no order here."""

    service_request_id: str | None
    reason: str


class PhaseWish(_Body):
    phase: Phase
    reason: str


class DisplayWish(_Body):
    display: Display
    reason: str


@dataclass(frozen=True)
class Ops:
    """What the API stands on."""

    database: Database
    work: Work
    joining: Joining
    packages: Mapping[str, ModelPackage]
    default_phase: Phase


def router(ops: Ops, authenticate: Authenticate) -> APIRouter:
    routes = APIRouter(prefix="/api", tags=["staff"])

    async def within(
        request: Request, kind: str, action: str, do: Callable[[Connection, Reader], Awaitable[Any]]
    ) -> Any:
        """One transaction: what is done or read, and the AuditEvent of it; a refusal is audited too."""
        reader: Reader | None = None
        try:
            reader = await authenticate(request)
            async with ops.database.transaction() as conn:
                answer = await do(conn, reader)
                await audit.write(conn, access(request, reader, kind, action))
                return answer
        except WetreadError as error:
            await refused(ops.database, request, reader, error)
            raise

    @routes.get("/worklist")
    async def get_worklist(request: Request, limit: int = Query(100, ge=1, le=1000)) -> Any:
        """Studies sickest first, each with the reason for its place."""
        return await within(request, "page-viewed", "R", lambda conn, reader: worklist.entries(conn, reader, limit))

    @routes.get("/studies")
    async def list_studies(
        request: Request, state: list[str] = Query(default=[]), limit: int = Query(100, ge=1, le=1000)
    ) -> Any:
        async def show(conn: Connection, reader: Reader) -> Any:
            return await answers.without_concealed(conn, reader, await studies.newest(conn, reader, state, limit))

        return await within(request, "page-viewed", "R", show)

    @routes.get("/studies/{study_id}")
    async def show_study(request: Request, study_id: str) -> Any:
        async def show(conn: Connection, reader: Reader) -> dict[str, Any]:
            study = await studies.by_id(conn, reader, study_id)
            released = [r for r in await runs.of_study(conn, study.study_instance_uid) if r.phase.is_released]
            hidden = await answers.concealed(conn, reader, released)
            shown = [
                r if answers.has_visible_answer(r, study, reader) and r.id not in hidden else replace(r, reading=None)
                for r in released
            ]
            (told,) = await answers.without_concealed(conn, reader, [study])
            return {**asdict(told), "runs": shown}

        return await within(request, "page-viewed", "R", show)

    @routes.post("/studies/{study_id}/complete", status_code=202)
    async def complete_study(request: Request, study_id: str) -> Any:
        async def complete(conn: Connection, reader: Reader) -> dict[str, str]:
            await declare_complete(conn, reader, ops.work, study_id)
            return {"status": "completing"}

        return await within(request, "study-completed", "U", complete)

    @routes.post("/studies/{study_id}/resolve")
    async def resolve_study(request: Request, study_id: str, wish: Resolution) -> Any:
        async def resolve(conn: Connection, reader: Reader) -> studies.Study:
            found = await studies.by_id(conn, reader, study_id)
            study = await studies.lock(conn, found.study_instance_uid)
            if study is None:
                raise NotFound("no study has this id")
            return await ops.joining.resolve(conn, reader, study, wish.service_request_id, wish.reason)

        return await within(request, "match-resolved", "U", resolve)

    @routes.get("/messages")
    async def list_messages(
        request: Request, state: list[str] = Query(default=[]), limit: int = Query(100, ge=1, le=1000)
    ) -> Any:
        return await within(request, "page-viewed", "R", lambda conn, reader: inbox.entries(conn, reader, state, limit))

    @routes.get("/messages/{message_id}/raw")
    async def show_message(request: Request, message_id: int) -> Response:
        content = await within(request, "page-viewed", "R", lambda conn, reader: inbox.raw(conn, reader, message_id))
        return Response(content, media_type="application/hl7-v2")

    @routes.post("/messages/{message_id}/replay", status_code=202)
    async def replay_message(request: Request, message_id: int) -> Any:
        async def replay(conn: Connection, reader: Reader) -> dict[str, str]:
            await inbox.replay(conn, reader, message_id)
            return {"status": "accepted"}

        return await within(request, "message-replayed", "U", replay)

    @routes.get("/deliveries")
    async def list_deliveries(
        request: Request, state: list[str] = Query(default=[]), limit: int = Query(100, ge=1, le=1000)
    ) -> Any:
        return await within(
            request, "page-viewed", "R", lambda conn, reader: outbox.entries(conn, reader, state, limit)
        )

    @routes.post("/deliveries/{delivery_id}/revive", status_code=202)
    async def revive_delivery(request: Request, delivery_id: str) -> Any:
        async def revive(conn: Connection, reader: Reader) -> dict[str, str]:
            if not await outbox.revive(conn, reader, ops.work, delivery_id):
                raise NotFound("no dead delivery has this id")
            return {"status": "pending"}

        return await within(request, "page-viewed", "U", revive)

    @routes.get("/models")
    async def list_models(request: Request) -> Any:
        async def show(conn: Connection, reader: Reader) -> list[dict[str, Any]]:
            reader.require("r", "Device")
            return [
                {
                    **asdict(package.identity),
                    "phase": await phases.phase_of(conn, package.name, package.identity.digest, ops.default_phase),
                }
                for package in ops.packages.values()
            ]

        return await within(request, "page-viewed", "R", show)

    @routes.post("/governance/models/{name}/phase")
    async def change_phase(request: Request, name: str, wish: PhaseWish) -> Any:
        async def change(conn: Connection, reader: Reader) -> dict[str, str]:
            package = ops.packages.get(name)
            if package is None:
                raise NotFound("no model has this name")
            await phases.change_phase(conn, reader, name, package.identity.digest, wish.phase, wish.reason)
            return {"model": name, "phase": wish.phase}

        return await within(request, "page-viewed", "U", change)

    @routes.post("/governance/models/{name}/display")
    async def change_display(request: Request, name: str, wish: DisplayWish) -> Any:
        async def change(conn: Connection, reader: Reader) -> dict[str, str]:
            if name not in ops.packages:
                raise NotFound("no model has this name")
            await display.change_display(conn, reader, name, wish.display, wish.reason)
            return {"model": name, "display": wish.display}

        return await within(request, "page-viewed", "U", change)

    @routes.post("/runs/{run_id}/reveal")
    async def reveal(request: Request, run_id: str) -> Any:
        """Shows what a run found, from now on, to who asks: of a model whose findings are shown on request."""

        async def show(conn: Connection, reader: Reader) -> dict[str, str]:
            study = await answers.reveal(conn, reader, run_id)
            return {"run": run_id, "study": study.id}

        return await within(request, "page-viewed", "R", show)

    @routes.get("/governance/phases")
    async def phase_history(request: Request) -> Any:
        return await within(request, "page-viewed", "R", phases.history)

    @routes.get("/governance/silent/{name}")
    async def silent_results(request: Request, name: str, limit: int = Query(100, ge=1, le=1000)) -> Any:
        return await within(request, "page-viewed", "R", lambda conn, reader: silent.results(conn, reader, name, limit))

    return routes


async def refused(database: Database, request: Request, reader: Reader | None, error: WetreadError) -> None:
    """Audits a refusal in a transaction of its own, since the refused one is rolled back."""
    kind = "access-denied" if error.http_status in (401, 403) else "page-viewed"
    outcome = "8" if error.http_status >= 500 else "4"
    if isinstance(error, StoreUnavailable):
        return
    async with database.transaction() as conn:
        await audit.write(conn, access(request, reader, kind, "E", outcome=outcome, outcome_text=error.message))
