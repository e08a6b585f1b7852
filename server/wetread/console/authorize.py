"""The pages on which a person lets an app in, or not (RFC 6749 4.1, SMART App Launch 2.2 app-launch.html).

They work without script. Each page carries the app's whole request, which is checked anew each time, and a form token
bound to it: nothing but this browser's own answer to this request counts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode, urlsplit

from fastapi import APIRouter, Request
from starlette.responses import Response

from wetread.access.oauth.authorization_requests import AuthorizationRequest, AuthorizationRequests, Refusal
from wetread.access.oauth.core import Authority
from wetread.access.oauth.request import Asked, parameters
from wetread.access.people import sessions
from wetread.access.people.sessions import Signed
from wetread.console import consent_words, forms, patient_choice, visitor
from wetread.console.audited import entry
from wetread.console.rendering import keeps_its_opener, page_may_lead_to, redirect
from wetread.console.sign_in import Door
from wetread.errors import Forbidden, InvalidInput, NotFound, StoreUnavailable, WetreadError
from wetread.record.audit import audit
from wetread.store.database import Connection

_PATH = visitor.AUTHORIZE
_LONGEST_REQUEST = 8 * 1024


@dataclass(frozen=True, slots=True)
class _Visit:
    """One page of the way: who is there, what an app asked of them (`query` as it came), and what they chose."""

    request: Request
    conn: Connection
    signed: Signed
    query: str
    wish: AuthorizationRequest
    patient: patient_choice.Patient | None = None

    def purpose(self, step: str) -> str:
        """Of the form token: this step, this request, this patient."""
        about = f"{self.query}\n{self.patient.id if self.patient else ''}"
        return f"{step} {hashlib.sha256(about.encode()).hexdigest()}"


def router(door: Door, authority: Authority) -> APIRouter:
    routes = APIRouter(include_in_schema=False)
    database, cookies, pages = door.database, door.cookies, door.pages
    requests = AuthorizationRequests(authority)

    def asked_of(request: Request, query: str) -> Asked:
        """Raises InvalidInput."""
        if len(query) > _LONGEST_REQUEST:
            raise InvalidInput("the app's request is too long")
        network = request.client.host if request.client else ""
        url = authority.url("authorize")
        return Asked("GET", url, parameters(query.encode("ascii", "replace")), dict(request.headers), network)

    @routes.get(_PATH)
    async def begin(request: Request) -> Response:
        return await answered(request, request.url.query, first_page)

    @routes.post(_PATH)
    async def begin_by_post(request: Request) -> Response:
        """The same, as a form of the app's page (capability authorize-post). A browser brings our cookie along only
        where it follows a link, so it is sent on by one."""
        try:
            pairs = parameters(await forms.content(request))
        except WetreadError as error:
            return await shown_refusal(request, error)
        return keeps_its_opener(redirect(f"{_PATH}?{urlencode(pairs)}"))

    async def answered(request: Request, query: str, step: Any) -> Response:
        return keeps_its_opener(await answer_to(request, query, step))

    async def answer_to(request: Request, query: str, step: Any) -> Response:
        """One page in one transaction with its AuditEvent. What is refused is put on record, and told to the app where
        its address can be trusted, else to the person."""
        name: str | None = None
        client_id = ""
        try:
            asked = asked_of(request, query)
            client_id = asked.one("client_id")[:64]
            async with database.transaction() as conn:
                signed = await visitor.signed_in(conn, request, cookies)
                name = signed.account.name if signed else None
                wish = await requests.read(conn, asked, signed)
                if signed is None or (request.method == "GET" and wish.needs_login(signed)):
                    await audit.write(conn, entry(request, name, "page-viewed", detail={"client": client_id}))
                    return visitor.to_login(request) if request.method == "GET" else redirect("/login")
                answer: Response = await step(_Visit(request, conn, signed, query, wish))
                return answer
        except Refusal as refusal:
            async with database.transaction() as conn:
                refused = Forbidden(f"{refusal.error}: {refusal.description}")
                detail = {"client": client_id}
                await audit.write(conn, entry(request, name, "app-authorized", error=refused, detail=detail))
            if refusal.location:
                return redirect(refusal.location)
            return pages.page("authorize_refused.html", {"refusal": refusal}, 400)
        except WetreadError as error:
            return await shown_refusal(request, error, name)

    async def shown_refusal(request: Request, error: WetreadError, name: str | None = None) -> Response:
        if not isinstance(error, StoreUnavailable):
            kind = "access-denied" if isinstance(error, Forbidden) else "page-viewed"
            async with database.transaction() as conn:
                await audit.write(conn, entry(request, name, kind, error=error))
        return pages.page("error.html", {"error": error}, error.http_status)

    async def first_page(at: _Visit) -> Response:
        if at.wish.wants_patient:
            await audit.write(at.conn, viewed(at))
            return patient_page(at, None)
        launch = at.wish.launch or {}
        if "patient" in launch:
            at = replace(
                at, patient=await patient_choice.chosen(at.conn, at.signed.account.reader(), launch["patient"])
            )
        return await consent_page(at)

    def viewed(at: _Visit, patient_id: str | None = None) -> audit.AuditEntry:
        detail = {"client": at.wish.client.client_id}
        made = entry(at.request, at.signed.account.name, "page-viewed", detail=detail)
        return replace(made, patient_id=patient_id)

    async def sent(request: Request, step: str, then: Any) -> Response:
        """One of our own forms. The patient that it names must be one that the person may read."""
        try:
            given = await forms.fields(request)
            forms.require_text(given)
            if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
                raise Forbidden("this form came from another site; start again from the app")
        except WetreadError as error:
            return await shown_refusal(request, error)

        async def checked(at: _Visit) -> Response:
            if given.get("patient") and at.wish.wants_patient and step != "choose":
                at = replace(at, patient=await patient_of(at, given["patient"]))
            elif at.wish.launch and "patient" in at.wish.launch:
                at = replace(at, patient=await patient_of(at, at.wish.launch["patient"]))
            cookie = request.cookies.get(cookies.session, "")
            sessions.check_form_token(cookie, at.purpose(step), given.get(forms.TOKEN, ""))
            answer: Response = await then(at, given)
            return answer

        return await answered(request, given.get("request", ""), checked)

    async def patient_of(at: _Visit, patient_id: str) -> patient_choice.Patient:
        return await patient_choice.chosen(at.conn, at.signed.account.reader(), patient_id)

    @routes.post(f"{_PATH}/patient")
    async def find_patient(request: Request) -> Response:
        async def search(at: _Visit, given: Mapping[str, str]) -> Response:
            reader, typed = at.signed.account.reader(), {k: given.get(k, "") for k in ("name", "identifier")}
            found = await patient_choice.found(at.conn, reader, typed["name"], typed["identifier"], authority.fhir_base)
            await audit.write_many(at.conn, [viewed(at, each.id) for each in found] or [viewed(at)])
            return patient_page(at, found, typed)

        return await sent(request, "find", search)

    def patient_page(
        at: _Visit, found: list[patient_choice.Patient] | None, typed: Mapping[str, str] | None = None
    ) -> Response:
        shown = {
            "found": found,
            "typed": typed or {"name": "", "identifier": ""},
            "find_token": token(at, "find"),
            "choose_token": token(at, "choose"),
        }
        return page(at, "authorize_patient.html", shown)

    @routes.post(f"{_PATH}/consent")
    async def choose_patient(request: Request) -> Response:
        async def choose(at: _Visit, given: Mapping[str, str]) -> Response:
            if not at.wish.wants_patient:
                raise InvalidInput("no patient is to be chosen here")
            return await consent_page(replace(at, patient=await patient_of(at, given.get("patient", ""))))

        return await sent(request, "choose", choose)

    async def consent_page(at: _Visit) -> Response:
        account = at.signed.account
        visits: list[patient_choice.Visit] = []
        if at.patient and at.wish.wants_encounter:
            visits = await patient_choice.visits(at.conn, account.reader(), at.patient.id, authority.fhir_base)
        offer = at.wish.offer(account, context_of(at, "?" if visits else ""))
        await audit.write(at.conn, viewed(at, at.patient.id if at.patient else None))
        shown = {
            "lines": consent_words.lines(offer, authority.lifetimes.offline.days),
            "patient": at.patient,
            "visits": visits,
            "decide_token": token(at, "decide"),
        }
        return page(at, "authorize_consent.html", shown)

    def context_of(at: _Visit, encounter: str) -> dict[str, Any]:
        """What the app will be told, as the token response has it."""
        context = dict(at.wish.launch or {})
        if at.patient and "patient" not in context:
            context |= {"patient": at.patient.id, "need_patient_banner": True}
        if encounter and "encounter" not in context:
            context["encounter"] = encounter
        return context

    @routes.post(f"{_PATH}/decision")
    async def decide(request: Request) -> Response:
        async def decided(at: _Visit, given: Mapping[str, str]) -> Response:
            if given.get("decision") != "allow":
                return await deny(at)
            if at.wish.wants_patient and at.patient is None:
                raise NotFound("no patient was chosen; start again from the app")
            encounter = given.get("encounter", "") if at.wish.wants_encounter else ""
            if encounter and at.patient:
                reader = at.signed.account.reader()
                await patient_choice.require_visit(at.conn, reader, at.patient.id, encounter)
            approved = {value for name, value in given.items() if name.startswith("allow.")}
            approved |= {word for word in at.wish.words if word.startswith("launch")}
            context = context_of(at, encounter)
            scope, location = await requests.approve(at.conn, at.wish, at.signed, context, approved)
            await audit.write(at.conn, authorized(at, {"scope": scope}))
            return redirect(location)

        return await sent(request, "decide", decided)

    @routes.post(f"{_PATH}/refusal")
    async def refuse(request: Request) -> Response:
        async def refused(at: _Visit, given: Mapping[str, str]) -> Response:
            return await deny(at)

        return await sent(request, "find", refused)

    async def deny(at: _Visit) -> Response:
        made = replace(authorized(at, {}), outcome="4", outcome_text="the person refused")
        await audit.write(at.conn, made)
        return redirect(await requests.deny(at.conn, at.wish))

    def authorized(at: _Visit, detail: Mapping[str, str]) -> audit.AuditEntry:
        detail = {"client": at.wish.client.client_id, **detail}
        made = entry(at.request, at.signed.account.name, "app-authorized", detail=detail)
        return replace(made, action="C", patient_id=at.patient.id if at.patient else None)

    def token(at: _Visit, step: str) -> str:
        return sessions.form_token(at.request.cookies.get(cookies.session, ""), at.purpose(step))

    def page(at: _Visit, template: str, shown: Mapping[str, Any]) -> Response:
        header = visitor.header(at.request, cookies, at.signed.account.display_name)
        client = at.wish.client
        host = urlsplit(at.wish.redirect_uri).hostname or "an app on this device"
        answer = pages.page(template, {**shown, **header, "app": client, "host": host, "request_query": at.query})
        # A browser follows the answer to a form only to where the page may send forms (CSP 3, form-action).
        return page_may_lead_to(answer, at.wish.redirect_uri)

    return routes
