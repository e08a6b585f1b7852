"""From a study to an app: an EHR launch with the study's patient in context (SMART App Launch 2.2
app-launch.html#launch-app-ehr-launch)."""

from __future__ import annotations

from dataclasses import replace

from fastapi import APIRouter, Request
from starlette.responses import Response

from wetread.access.clients import clients
from wetread.access.clients.clients import Client
from wetread.access.oauth import launches
from wetread.access.oauth.core import Authority
from wetread.access.people.sessions import form_token
from wetread.console import forms, visitor
from wetread.console.audited import entry
from wetread.console.rendering import redirect
from wetread.console.sign_in import Door
from wetread.console.visitor import Cookies
from wetread.domain.reader import Reader
from wetread.errors import Forbidden, NotFound, WetreadError
from wetread.reading import studies
from wetread.reading.studies import Study
from wetread.record import resources
from wetread.record.audit import audit
from wetread.store.database import Connection

_PURPOSE = "launch an app"


async def apps(conn: Connection) -> list[Client]:
    """Those that can be started for a patient, by name."""
    open_ones = [client for client in await clients.all_of_them(conn) if client.disabled_at is None]
    return sorted((each for each in open_ones if each.launch_uri and "launch" in each.words), key=lambda app: app.name)


def token(request: Request, cookies: Cookies) -> str:
    """Of the form on a study's page; empty for who is signed in by no session, and so can launch nothing."""
    value = request.cookies.get(cookies.session, "")
    return form_token(value, _PURPOSE) if value else ""


def router(door: Door, authority: Authority) -> APIRouter:
    routes = APIRouter(include_in_schema=False)
    database, cookies, pages = door.database, door.cookies, door.pages

    @routes.post("/worklist/{study_id}/launch")
    async def launch(request: Request, study_id: str) -> Response:
        name: str | None = None
        try:
            async with database.transaction() as conn:
                signed = await visitor.signed_in(conn, request, cookies)
                if signed is None:
                    return redirect("/login")
                name = signed.account.name
                given = await forms.own_fields(request, request.cookies[cookies.session], _PURPOSE)
                forms.require_text(given)
                if not signed.account.roles & launches.STAFF:
                    raise Forbidden("launching an app needs the role of somebody of the staff")
                app = await clients.by_id(conn, given.get("app", ""))
                if app is None or not app.launch_uri:
                    raise NotFound("no app that can be launched has this name")
                reader = signed.account.reader()
                study = await studies.by_id(conn, reader, study_id)
                value = await launches.begin(conn, app.client_id, name, await _context(conn, reader, study))
                made = entry(request, name, "app-launched", detail={"client": app.client_id})
                await audit.write(conn, replace(made, action="E", patient_id=study.patient_id))
                return redirect(launches.address(app, authority.fhir_base, value))
        except WetreadError as error:
            async with database.transaction() as conn:
                await audit.write(conn, entry(request, name, "app-launched", error=error))
            return pages.page("error.html", {"error": error}, error.http_status)

    return routes


async def _context(conn: Connection, reader: Reader, study: Study) -> dict[str, object]:
    """The patient, and the study where it is on the record already. Raises NotFound, Forbidden."""
    await resources.read(conn, reader, "Patient", study.patient_id)
    try:
        await resources.read(conn, reader, "ImagingStudy", study.id)
    except NotFound:
        return launches.context(patient=study.patient_id)
    about = {"reference": f"ImagingStudy/{study.id}", "type": "ImagingStudy"}
    return launches.context(patient=study.patient_id, fhir_context=[about])
