"""Who asks too often is answered 429, in the form of the door, and is on record by count."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from wetread import app as composition
from wetread.api.limits import Limits, Rates
from wetread.api.turned_away import TurnedAway
from wetread.domain.reader import Reader
from wetread.settings import load
from wetread.store.database import Database

RATES = Rates(client=20, anonymous=10, refused=5, guesses=6, guesses_of_name=3)


@dataclass
class House:
    """A small server whose answers tell nothing of our own faces: `Bearer NAME` is let in as NAME, but `Bearer x` is
    not; a form with `secret=right` is right."""

    database: Database
    rates: Rates = RATES
    now: float = 1000.0
    asked: list[str] = field(default_factory=list)
    revoked: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.turned_away = TurnedAway(self.database, clock=lambda: self.now)
        self.limits = Limits(self._app, self.rates, self.turned_away, ["/healthz"], clock=lambda: self.now)

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        self.asked.append(scope["path"])
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        status = 200
        if scope["method"] == "POST" and scope["path"].startswith(("/login", "/oauth")):
            status = 200 if b"secret=right" in await request.body() else 401
        elif token and token != "x" and token not in self.revoked:
            request.state.reader = Reader(token.partition(":")[0], ())
            status = 404 if scope["path"] == "/missing" else 200
        elif scope["path"].startswith("/fhir/Patient"):
            status = 401
        elif scope["path"] == "/missing":
            status = 404
        await Response("", status)(scope, receive, send)

    async def ask(
        self, path: str, token: str = "", *, address: str = "203.0.113.9", form: str | None = None, basic: str = ""
    ) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if basic:
            headers = {"Authorization": "Basic " + base64.b64encode(basic.encode()).decode()}
        transport: Any = httpx.ASGITransport(self.limits, client=(address, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://wetread.test") as client:
            if form is None:
                return await client.get(path, headers=headers)
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            return await client.post(path, headers=headers, content=form)

    async def statuses(self, count: int, path: str, *more: Any, **named: Any) -> list[int]:
        return [(await self.ask(path, *more, **named)).status_code for _ in range(count)]


@pytest.fixture
def server(module_database: Database) -> House:
    return House(module_database)


class TestAClient:
    async def test_has_its_share_whatever_tokens_and_addresses_it_uses(self, server: House) -> None:
        for number in range(10):
            await server.ask("/fhir/Patient/1", f"ehr:{number}")
        statuses = [
            (await server.ask("/fhir/Patient/1", f"ehr:{number % 10}", address=f"10.0.0.{number}")).status_code
            for number in range(30)
        ]
        assert statuses == [200] * 20 + [429] * 10

    async def test_does_not_use_up_what_others_have(self, server: House) -> None:
        await server.statuses(40, "/fhir/Patient/1", "ehr")
        assert (await server.ask("/fhir/Patient/1", "pacs")).status_code == 200
        assert (await server.ask("/fhir/Patient/1", "pacs")).status_code == 200

    async def test_may_come_again_when_it_was_told(self, server: House) -> None:
        await server.statuses(1 + 20, "/fhir/Patient/1", "ehr")
        server.now += 30
        refused = await server.ask("/fhir/Patient/1", "ehr")
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "30")
        server.now += 29
        assert (await server.ask("/fhir/Patient/1", "ehr")).status_code == 429
        server.now += 1
        assert (await server.ask("/fhir/Patient/1", "ehr")).status_code == 200

    async def test_is_not_kept_from_asking_by_what_is_not_there(self, server: House) -> None:
        assert await server.statuses(15, "/missing", "ehr") == [404] * 15

    async def test_whose_token_has_ended_is_one_of_many_strangers(self, server: House) -> None:
        await server.ask("/fhir/Patient/1", "ehr")
        server.revoked.add("ehr")
        assert await server.statuses(8, "/fhir/Patient/1", "ehr") == [401] * 5 + [429] * 3


class TestAStranger:
    async def test_is_refused_so_often_and_then_not_even_heard(self, server: House) -> None:
        assert await server.statuses(8, "/fhir/Patient/1", "x") == [401] * 5 + [429] * 3
        assert len(server.asked) == 5
        assert (await server.ask("/fhir/Patient/1")).status_code == 429
        assert (await server.ask("/fhir/Patient/1", address="203.0.113.10")).status_code == 401

    async def test_with_another_token_each_time_is_the_same_one(self, server: House) -> None:
        server.revoked |= {f"guess{number}" for number in range(8)}
        answers = [(await server.ask("/fhir/Patient/1", f"guess{number}")).status_code for number in range(8)]
        assert answers == [401] * 5 + [429] * 3

    async def test_looking_for_paths_is_one_too(self, server: House) -> None:
        assert await server.statuses(7, "/missing") == [404] * 5 + [429] * 2

    async def test_has_one_network_of_ipv6_however_many_addresses_are_in_it(self, server: House) -> None:
        answers = [
            (await server.ask("/fhir/Patient/1", address=f"2001:db8:0:1::{number}")).status_code for number in range(7)
        ]
        assert answers == [401] * 5 + [429] * 2
        assert (await server.ask("/fhir/Patient/1", address="2001:db8:0:2::1")).status_code == 401

    async def test_does_not_keep_a_client_of_the_same_address_out(self, server: House) -> None:
        await server.ask("/fhir/Patient/1", "ehr")
        await server.statuses(20, "/fhir/Patient/1", "x")
        assert (await server.ask("/fhir/Patient/1", "ehr")).status_code == 200

    async def test_does_not_keep_others_of_the_same_address_from_the_door_or_from_metadata(self, server: House) -> None:
        await server.statuses(20, "/fhir/Patient/1", "x")
        assert (await server.ask("/login")).status_code == 200
        assert (await server.ask("/fhir/metadata")).status_code == 200

    async def test_is_let_in_anonymously_so_often(self, server: House) -> None:
        for path in ("/fhir/metadata", "/login", "/page"):
            assert await server.statuses(12, path) == [200] * 10 + [429] * 2

    async def test_may_probe_as_it_likes(self, server: House) -> None:
        assert await server.statuses(100, "/healthz") == [200] * 100


class TestGuessing:
    @pytest.mark.parametrize("path", ["/login", "/oauth/token", "/oauth/introspect", "/oauth/authorize"])
    async def test_by_one_address_ends(self, server: House, path: str) -> None:
        answers = [(await server.ask(path, form=f"name=n{number}&secret=wrong")).status_code for number in range(8)]
        assert answers == [401] * 6 + [429] * 2
        assert (await server.ask(path, form="name=me&secret=right")).status_code == 429
        assert (await server.ask(path, form="name=me&secret=right", address="203.0.113.10")).status_code == 200

    @pytest.mark.parametrize(
        "tried",
        [
            lambda: {"form": "name=Meier&secret=wrong"},
            lambda: {"form": "client_id=MEIER&secret=wrong"},
            lambda: {"form": "grant_type=x", "basic": "meier:wrong"},
            lambda: {"form": f"client_assertion=h.{_claims({'iss': 'meier'})}.s"},
        ],
    )
    async def test_at_one_name_by_one_address_ends_and_shuts_nobody_else_out(
        self, server: House, tried: Callable[[], dict[str, str]]
    ) -> None:
        answers = await server.statuses(5, "/oauth/token", **tried())
        assert answers == [401] * 3 + [429] * 2
        assert (await server.ask("/oauth/token", form="client_id=other&secret=right")).status_code == 200
        own = {"form": "client_id=meier&secret=right", "address": "203.0.113.10"}
        assert await server.statuses(3, "/oauth/token", **own) == [200] * 3

    async def test_is_what_fails_not_what_succeeds(self, server: House) -> None:
        assert await server.statuses(15, "/oauth/token", form="client_id=ehr&secret=right") == [200] * 15

    @pytest.mark.parametrize(
        "form",
        [
            "client_assertion=a.b.c",
            "client_assertion=..",
            "client_assertion=x",
            f"client_assertion=h.{'A' * 9000}.s",
            "name=" + "n" * 15_000,
            "name=" + "n" * 40_000,
            "&" * 500,
            "name=%ff&name=%00",
            "\udcff",
        ],
    )
    async def test_with_nonsense_is_an_attempt_like_any_other(self, server: House, form: str) -> None:
        body = form.encode("utf-8", "surrogateescape").decode("latin-1")
        statuses = await server.statuses(8, "/oauth/token", form=body)
        assert statuses in ([401] * 6 + [429] * 2, [401] * 3 + [429] * 5)  # where a name can be read, by that

    @pytest.mark.parametrize(
        "form",
        [
            "name=meier&name=other{}&secret=wrong",
            "name=meier&secret=wrong\u00ff",
            "name=meier&secret=wrong" + "&x=y" * 200,
            "name=meier&secret=wrong&x=" + "y" * 40_000,
        ],
        ids=["second name", "other bytes", "many fields", "long"],
    )
    async def test_at_a_name_cannot_be_hidden_in_the_form(self, server: House, form: str) -> None:
        answers = [(await server.ask("/login", form=form.format(n))).status_code for n in range(5)]
        assert answers == [401] * 3 + [429] * 2

    @pytest.mark.parametrize("path", ["/login", "/login/code", "/oauth/authorize", "/oauth/authorize/decision"])
    async def test_pages_are_sent_forms_by_one_address_so_often(self, server: House, path: str) -> None:
        answers = [(await server.ask(path, form=f"name=n{n}&secret=right")).status_code for n in range(12)]
        assert answers == [200] * 10 + [429] * 2

    async def test_a_form_that_names_nobody_counts_by_address(self, server: House) -> None:
        assert await server.statuses(12, "/oauth/token", form="secret=right") == [200] * 10 + [429] * 2

    async def test_the_door_gets_the_whole_form_all_the_same(self, server: House) -> None:
        form = "pad=" + "p" * 100_000 + "&secret=right"
        assert (await server.ask("/login", form=form)).status_code == 200


def _claims(claims: dict[str, str]) -> str:
    return base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")


class TestTheAnswer:
    async def test_is_of_the_door_that_was_asked(self, server: House) -> None:
        server.rates = RATES
        answers = {path: (await _until_429(server, path)) for path in ("/fhir/Patient/1", "/api/x", "/login")}
        oauth = await _until_429(server, "/oauth/token", form="x=y")
        fhir = answers["/fhir/Patient/1"]
        assert fhir.headers["content-type"].startswith("application/fhir+json")
        assert fhir.json()["issue"][0]["code"] == "throttled"
        assert answers["/api/x"].headers["content-type"] == "application/problem+json"
        assert answers["/api/x"].json()["status"] == 429
        assert oauth.json()["error"] == "temporarily_unavailable"
        for answer in (*answers.values(), oauth):
            assert 1 <= int(answer.headers["retry-after"]) <= 60


async def _until_429(server: House, path: str, **named: Any) -> httpx.Response:
    while True:
        answer = await server.ask(path, **named)
        if answer.status_code == 429:
            return answer


class TestTheRecord:
    async def test_tells_once_a_minute_how_many_were_turned_away(self, database: Database) -> None:
        server = House(database)
        await server.statuses(5 + 100, "/fhir/Patient/1", "x")
        await server.statuses(5 + 7, "/fhir/Patient/1", "x", address="198.51.100.1")
        await server.turned_away.record()
        assert await _refusals(database) == []
        server.now += 60
        await server.turned_away.record()
        await server.turned_away.record()
        told = {row["agent"][0]["network"]["address"]: row for row in await _refusals(database)}
        assert {address: _detail(row, "count") for address, row in told.items()} == {
            "203.0.113.9": "100",
            "198.51.100.1": "7",
        }

    async def test_tells_how_many_a_listener_did_not_let_in_and_why(self, database: Database) -> None:
        server = House(database)
        for number in range(1000):
            server.turned_away.at_listener("mllp", f"2001:db8::{number:x}", "not in the allow-list")
            server.turned_away.at_listener("dicom", "203.0.113.9", f"TLS handshake failed: {number}")
        server.now += 60
        await server.turned_away.record()
        async with database.transaction() as conn:
            rows = await conn.execute("SELECT body FROM audit_event WHERE kind = 'access-denied' ORDER BY position")
            told = [json.loads(body) for (body,) in await rows.fetchall()]
        assert [
            (row["agent"][0]["network"]["address"], row["outcomeDesc"], _detail(row, "listener"), _detail(row, "count"))
            for row in told
        ] == [
            ("2001:0db8:0000:0000::/64", "not in the allow-list", "mllp", "1000"),
            ("203.0.113.9", "TLS handshake failed: 0", "dicom", "1000"),
        ]

    async def test_keeps_its_count_while_the_database_is_away(self, database: Database, database_url: str) -> None:
        server = House(database)
        await server.statuses(5 + 3, "/fhir/Patient/1", "x")
        server.turned_away._database = Database("postgresql://nobody@127.0.0.1:1/none")
        await server.turned_away.record(all_of_them=True)
        await server.statuses(2, "/fhir/Patient/1", "x")
        server.turned_away._database = database
        await server.turned_away.record(all_of_them=True)
        assert [_detail(row, "count") for row in await _refusals(database)] == ["5"]


async def _refusals(database: Database) -> list[dict[str, Any]]:
    async with database.transaction() as conn:
        rows = await conn.execute("SELECT body FROM audit_event WHERE kind = 'request-refused' ORDER BY position")
        return [json.loads(body) for (body,) in await rows.fetchall()]


def _detail(row: dict[str, Any], wanted: str) -> str:
    details = [detail for entity in row.get("entity", ()) for detail in entity.get("detail", ())]
    return next(detail["valueString"] for detail in details if detail["type"] == wanted)


class TestTheWholeServer:
    @pytest.fixture
    async def ask(self, tmp_path: Path, database: Database) -> AsyncIterator[Callable[..., Any]]:
        settings = load(
            None, {"data_dir": tmp_path, "http": {"limits": {"client_per_minute": 5, "refused_per_minute": 3}}}
        )
        async with composition.house(settings, database.url, ["http"]) as built:
            transport: Any = httpx.ASGITransport(composition.front(built).app, raise_app_exceptions=False)
            token = composition.tokens(settings).issue("operator:test", "system/*.cruds", [], timedelta(hours=1)).token
            async with httpx.AsyncClient(transport=transport, base_url="http://wetread.test") as client:

                async def ask(path: str, *, signed: bool = True, method: str = "GET", **more: Any) -> httpx.Response:
                    headers = {"Authorization": f"Bearer {token}"} if signed else {}
                    return await client.request(method, path, headers=headers | more.pop("headers", {}), **more)

                yield ask

    async def test_knows_a_client_by_its_token_and_fences_in_the_refusal(self, ask: Callable[..., Any]) -> None:
        statuses = [(await ask("/fhir/Patient?_count=0")).status_code for _ in range(8)]
        assert statuses == [200] * 6 + [429] * 2
        refused = await ask("/fhir/Patient")
        assert refused.headers["x-content-type-options"] == "nosniff"
        assert refused.headers["cache-control"] == "no-store"
        assert refused.json()["issue"][0]["code"] == "throttled"

    async def test_does_not_let_strangers_fill_the_record(self, ask: Callable[..., Any], database: Database) -> None:
        statuses = [(await ask("/fhir/Patient/1", signed=False)).status_code for _ in range(50)]
        assert statuses == [401] * 3 + [429] * 47
        async with database.transaction() as conn:
            row = await (await conn.execute("SELECT count(*) FROM audit_event")).fetchone()
        assert row is not None
        assert row[0] == 3

    @pytest.mark.parametrize(
        "path", ["/healthz", "/fhir/metadata", "/login", "/fhir/Patient/1", "/none", "/console/console.css"]
    )
    async def test_fences_in_every_answer(self, ask: Callable[..., Any], path: str) -> None:
        headers = (await ask(path, signed=False)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "referrer-policy" in headers
        assert "server" not in headers

    async def test_patient_data_are_for_no_cache_and_an_etag_works_all_the_same(self, ask: Callable[..., Any]) -> None:
        patient = {"resourceType": "Patient", "id": "here"}
        await ask("/fhir/Patient/here", method="PUT", json=patient)
        read = await ask("/fhir/Patient/here")
        assert read.headers["cache-control"] == "no-store"
        again = await ask("/fhir/Patient/here", headers={"If-None-Match": read.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
