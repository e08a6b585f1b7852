"""Whose address counts: a client's own word never, a trusted proxy's for the hop before it."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from wetread.api.forwarded import Forwarded
from wetread.api.turned_away import TurnedAway
from wetread.domain.networks import address, networks
from wetread.store.database import Database

PROXIES = networks(["10.0.0.0/29", "fd00::/64"])
Headers = list[tuple[str, str]]


class App:
    scope: Scope | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})


async def asked(peer: str, headers: Headers, *, allow: tuple[str, ...] = ()) -> tuple[int, Scope | None]:
    app = App()
    door = Forwarded(app, PROXIES, networks(allow), TurnedAway(Database("postgresql://nobody@127.0.0.1:1/none")))
    transport: Any = httpx.ASGITransport(door, client=(peer, 4711))
    async with httpx.AsyncClient(transport=transport, base_url="http://wetread.test") as client:
        return (await client.get("/", headers=headers)).status_code, app.scope


async def client_of(peer: str, *headers: tuple[str, str]) -> str:
    status, scope = await asked(peer, list(headers))
    assert status == 204
    assert scope is not None
    return str(scope["client"][0])


FOR, STANDARD = "X-Forwarded-For", "Forwarded"


class TestWithoutAProxy:
    @pytest.mark.parametrize(
        "header",
        [(FOR, "10.0.0.1"), (STANDARD, "for=10.0.0.1;proto=https"), (FOR, "127.0.0.1, 10.0.0.1"), (FOR, "x" * 5000)],
    )
    async def test_nothing_is_believed(self, header: tuple[str, str]) -> None:
        _, scope = await asked("203.0.113.9", [header, ("X-Forwarded-Proto", "https")])
        assert scope is not None
        assert scope["client"] == ("203.0.113.9", 4711)
        assert scope["scheme"] == "http"

    async def test_a_contradiction_is_nobodys_business(self) -> None:
        assert await client_of("203.0.113.9", (FOR, "1.1.1.1"), (STANDARD, "for=2.2.2.2")) == "203.0.113.9"


class TestBehindAProxy:
    @pytest.mark.parametrize(
        ("value", "client"),
        [
            ("198.51.100.7", "198.51.100.7"),
            ("198.51.100.7:4711", "198.51.100.7"),
            ("2001:db8::7", "2001:db8::7"),
            ("[2001:db8::7]", "2001:db8::7"),
            ("[2001:db8::7]:4711", "2001:db8::7"),
            ("2001:0DB8:0::0007", "2001:db8::7"),
            ("::ffff:198.51.100.7", "198.51.100.7"),
            ("  198.51.100.7  ", "198.51.100.7"),
            ("127.0.0.1, 198.51.100.7", "198.51.100.7"),
            ("198.51.100.7, 10.0.0.2", "198.51.100.7"),
            ("127.0.0.1, 198.51.100.7, 10.0.0.2, fd00::2", "198.51.100.7"),
            ("198.51.100.7, ::ffff:10.0.0.2", "198.51.100.7"),
            ("10.0.0.3, 10.0.0.2", "10.0.0.3"),
            ("garbage, 198.51.100.7", "198.51.100.7"),
            ("198.51.100.7, garbage", "unknown"),
            ("198.51.100.7, ", "unknown"),
            ("198.51.100.7, [10.0.0.2]", "unknown"),
            ("198.51.100.7, 10.0.0.2:port", "unknown"),
            ("198.51.100.7, 010.0.0.2", "unknown"),
            ("unknown", "unknown"),
        ],
    )
    async def test_the_right_most_hop_that_is_no_proxy_counts(self, value: str, client: str) -> None:
        assert await client_of("10.0.0.1", (FOR, value)) == client

    async def test_several_lines_are_one_list(self) -> None:
        assert (
            await client_of("10.0.0.1", (FOR, "127.0.0.1"), (FOR, "198.51.100.7"), (FOR, "10.0.0.2")) == "198.51.100.7"
        )

    async def test_no_header_is_the_proxy_itself(self) -> None:
        assert await client_of("10.0.0.1") == "10.0.0.1"

    @pytest.mark.parametrize(
        ("value", "client"),
        [
            ("for=198.51.100.7", "198.51.100.7"),
            ('For="198.51.100.7:80"', "198.51.100.7"),
            ('for="[2001:db8::7]:4711";proto=https;by=10.0.0.1', "2001:db8::7"),
            ("for=127.0.0.1, for=198.51.100.7;host=x, for=10.0.0.2", "198.51.100.7"),
            ('for=127.0.0.1;host="a, for=10.0.0.9", for=198.51.100.7', "198.51.100.7"),
            ('for="_hidden", for=198.51.100.7', "198.51.100.7"),
            ("for=198.51.100.7, for=_secret", "unknown"),
            ("for=198.51.100.7, proto=https", "unknown"),
            (r'for="198.51.100\.7"', "198.51.100.7"),
        ],
    )
    async def test_the_standard_header_counts_too(self, value: str, client: str) -> None:
        assert await client_of("10.0.0.1", (STANDARD, value)) == client

    @pytest.mark.parametrize(
        "value",
        ['for="198.51.100.7', 'for="', "for=1.1.1.1;for=2.2.2.2", "for 1.1.1.1", "for=[::1]", "for=1.1.1.1 for=2"],
    )
    async def test_one_that_cannot_be_read_is_refused(self, value: str) -> None:
        assert (await asked("10.0.0.1", [(STANDARD, value)]))[0] == 400

    async def test_a_header_that_the_proxy_passed_on_cannot_overrule_the_one_that_it_wrote(self) -> None:
        for headers in (
            [(FOR, "198.51.100.7"), (STANDARD, "for=127.0.0.1")],
            [(FOR, "127.0.0.1"), (STANDARD, "for=198.51.100.7")],
            [(FOR, "198.51.100.7"), (STANDARD, "for=127.0.0.1, for=10.0.0.2")],
            [(FOR, "198.51.100.7"), (STANDARD, "for=unknown")],
        ):
            assert (await asked("10.0.0.1", headers))[0] == 400
        assert await client_of("10.0.0.1", (FOR, "198.51.100.7"), (STANDARD, 'for="198.51.100.7:1"')) == "198.51.100.7"

    @given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60))
    async def test_whatever_a_client_writes_left_of_it_the_proxys_hop_counts(self, text: str) -> None:
        assert await client_of("10.0.0.1", (FOR, f"{text}, 198.51.100.7")) == "198.51.100.7"
        status, scope = await asked("10.0.0.1", [(STANDARD, f"{text}, for=198.51.100.7")])
        if status == 204:
            assert scope is not None
            assert address(scope["client"][0]) == address("198.51.100.7")
        else:
            assert status == 400


class TestTheScheme:
    @pytest.mark.parametrize(
        ("headers", "scheme"),
        [
            ([(FOR, "198.51.100.7"), ("X-Forwarded-Proto", "https")], "https"),
            ([(FOR, "198.51.100.7"), ("X-Forwarded-Proto", "http, https")], "https"),
            ([(FOR, "198.51.100.7"), ("X-Forwarded-Proto", "javascript")], "http"),
            ([(FOR, "198.51.100.7")], "http"),
            ([(STANDARD, "for=198.51.100.7;proto=HTTPS")], "https"),
            ([(STANDARD, "for=1.1.1.1;proto=https, for=198.51.100.7;proto=http")], "http"),
        ],
    )
    async def test_is_the_proxys(self, headers: Headers, scheme: str) -> None:
        _, scope = await asked("10.0.0.1", headers)
        assert scope is not None
        assert scope["scheme"] == scheme


class TestAllowLists:
    ALLOW = ("198.51.100.0/24",)

    @pytest.mark.parametrize(
        ("peer", "headers", "status"),
        [
            ("198.51.100.9", [], 204),
            ("203.0.113.9", [], 403),
            ("203.0.113.9", [(FOR, "198.51.100.7")], 403),
            ("10.0.0.1", [(FOR, "198.51.100.7")], 204),
            ("10.0.0.1", [(FOR, "203.0.113.9")], 403),
            ("10.0.0.1", [(FOR, "198.51.100.7, 203.0.113.9")], 403),
            ("10.0.0.1", [(FOR, "unknown")], 403),
            ("10.0.0.1", [], 204),
        ],
    )
    async def test_are_held_against_the_client(self, peer: str, headers: Headers, status: int) -> None:
        assert (await asked(peer, headers, allow=self.ALLOW))[0] == status


async def test_who_is_turned_away_is_on_record_by_count(database: Database) -> None:
    turned_away = TurnedAway(database)
    door = Forwarded(App(), PROXIES, networks(["198.51.100.0/24"]), turned_away)
    for peer, headers in (
        *[("203.0.113.9", {})] * 3,
        *[("10.0.0.1", {FOR: "203.0.113.10"})] * 2,
        ("10.0.0.1", {FOR: "198.51.100.7", STANDARD: "for=127.0.0.1"}),
    ):
        transport: Any = httpx.ASGITransport(door, client=(peer, 4711))
        async with httpx.AsyncClient(transport=transport, base_url="http://wetread.test") as client:
            await client.get("/", headers=headers)
    await turned_away.record(all_of_them=True)
    async with database.transaction() as conn:
        rows = await (await conn.execute("SELECT kind, body FROM audit_event ORDER BY position")).fetchall()
    told = [(kind, json.loads(body)["agent"][0]["network"]["address"]) for kind, body in rows]
    counts = re.findall(r'"type":"count","valueString":"(\d+)"', "".join(body for _, body in rows).replace(" ", ""))
    assert list(zip(told, counts, strict=True)) == [
        (("access-denied", "203.0.113.9"), "3"),
        (("access-denied", "203.0.113.10"), "2"),
        (("request-refused", "10.0.0.1"), "1"),
    ]
