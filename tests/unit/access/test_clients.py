"""Clients as they are kept, their secrets, and API keys at the door of one process."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from ipaddress import ip_network
from typing import Any

import pytest

from wetread.access import secrets
from wetread.access.clients import clients, registration
from wetread.access.clients.known import KnownClients
from wetread.domain.reader import Reader
from wetread.errors import Conflict, Forbidden, NotFound, Unauthorized
from wetread.store.database import Database

DAY = timedelta(days=1)


async def _add(database: Database, client_id: str = "ris", **changed: Any) -> clients.Client:
    wanted = {
        "name": "RIS",
        "kind": "symmetric",
        "scope": "openid launch/patient system/ImagingStudy.rs system/Observation.rs?category=imaging patient/*.rs",
        "roles": ["service", "analyst"],
        **changed,
    }
    async with database.transaction() as conn:
        return await clients.add(conn, client_id, registration.checked(**wanted))


async def _key(database: Database, client_id: str = "ris", lifetime: timedelta = DAY, **narrower: Any) -> str:
    async with database.transaction() as conn:
        return (await secrets.make_api_key(conn, client_id, lifetime, **narrower)).text


async def test_a_client_is_what_it_registered_as(database: Database) -> None:
    added = await _add(database, networks=["10.1.0.0/16"], redirect_uris=["https://a.example/cb"])
    async with database.transaction() as conn:
        assert await clients.by_id(conn, "ris") == added
        for other in ("other", "", "ris\x00", "\ud800"):
            assert await clients.by_id(conn, other) is None
        assert [c.client_id for c in await clients.all_of_them(conn)] == ["ris"]
        with pytest.raises(NotFound):
            await clients.disable(conn, "other")
    assert added.words == {"openid", "launch/patient"}
    assert [str(scope) for scope in added.scopes] == [
        "system/ImagingStudy.rs",
        "system/Observation.rs?category=imaging",
        "patient/*.rs",
    ]
    assert added.networks == (ip_network("10.1.0.0/16"),)
    with pytest.raises(Conflict):
        await _add(database)


async def test_a_disabled_client_is_none(database: Database) -> None:
    await _add(database)
    async with database.transaction() as conn:
        await clients.disable(conn, "ris")
        assert await clients.by_id(conn, "ris") is None
        assert await clients.by_id(conn, "ris", disabled_too=True) is not None
        await clients.enable(conn, "ris")
        assert await clients.by_id(conn, "ris") is not None


@pytest.mark.parametrize(
    ("host", "admitted"),
    [
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("fd00::1", True),
        ("10.2.0.1", False),
        ("::ffff:10.2.0.1", False),
        ("fd01::1", False),
        ("", False),
        (None, False),
        ("ris.example", False),
    ],
)
def test_a_client_calls_from_its_networks_only(host: str | None, admitted: bool) -> None:
    networks = (ip_network("10.1.0.0/16"), ip_network("fd00::/64"))
    assert clients.admits(networks, host) is admitted
    assert clients.admits((), host)


async def test_a_secret_counts_for_its_client_until_it_ends(database: Database) -> None:
    await _add(database)
    await _add(database, "other")
    async with database.transaction() as conn:
        first, second = await secrets.make(conn, "ris", DAY), await secrets.make(conn, "ris", DAY)
        over = await secrets.make(conn, "ris", timedelta(0))
        key = await secrets.make_api_key(conn, "ris", DAY)
        for made, counts in ((first, True), (second, True), (over, False), (key, False)):
            assert await secrets.check(conn, "ris", made.text) is counts
        assert not await secrets.check(conn, "other", first.text)
        for wrong in ("", first.text[:-1], first.text + " ", "\x00", "\ud800"):
            assert not await secrets.check(conn, "ris", wrong)
        assert await secrets.revoke(conn, first.id) == "ris"
        assert not await secrets.check(conn, "ris", first.text)
        assert await secrets.check(conn, "ris", second.text)
        with pytest.raises(NotFound):
            await secrets.revoke(conn, "nothing")
        [(kept,)] = await (await conn.execute("SELECT string_agg(s::text, '') FROM client_secret s")).fetchall()
    assert all(made.text not in kept for made in (first, second, key))


async def test_an_api_key_opens_what_the_client_may_for_itself(database: Database) -> None:
    await _add(database)
    reader = await KnownClients(database).holder_of(await _key(database), None)
    assert [str(scope) for scope in reader.scopes] == [
        "system/ImagingStudy.rs",
        "system/Observation.rs?category=imaging",
    ]
    assert (reader.principal, reader.client_id, reader.roles) == ("ris", "ris", {"service", "analyst"})


async def test_a_narrower_key_opens_less_and_never_more(database: Database) -> None:
    await _add(database)

    async def opened(**narrower: Any) -> Reader:
        return await KnownClients(database).holder_of(await _key(database, **narrower), None)

    narrow = await opened(scope="system/Observation.rs", roles=["service"])
    assert [str(scope) for scope in narrow.scopes] == ["system/Observation.rs?category=imaging"]
    assert narrow.roles == {"service"}
    wide = await opened(scope="system/*.cruds patient/*.cruds user/*.cruds", roles=["administrator"])
    assert not any(wide.may(letter, "Patient") for letter in "cruds")
    assert {scope.letters for scope in wide.scopes} == {frozenset("rs")}
    assert wide.roles == frozenset()
    assert (await opened(scope="", roles=[])).scopes == ()


async def test_a_wrong_key_opens_nothing(database: Database) -> None:
    await _add(database)
    key, other = await _key(database), await _key(database)
    known = KnownClients(database)
    await known.holder_of(key, None)
    swapped = "_".join((*key.split("_", 2)[:2], other.split("_", 2)[2]))
    wrong = (swapped, key[:-1], key + "A", key.upper(), "wtr_", "wtr__", "wtr_x_y", "wtr_\u0661_x", "wtr_" + "\ud800")
    for text in wrong:
        with pytest.raises(Unauthorized):
            await known.holder_of(text, None)
    async with database.transaction() as conn:
        secret = await secrets.make(conn, "ris", DAY)
    with pytest.raises(Unauthorized):
        await known.holder_of(f"wtr_{secret.id.replace('-', '')}_{secret.text}", None)


async def test_a_key_counts_from_the_clients_networks(database: Database) -> None:
    await _add(database, networks=["10.1.0.0/16"])
    known, key = KnownClients(database), await _key(database)
    await known.holder_of(key, "10.1.2.3")
    with pytest.raises(Forbidden):
        await known.holder_of(key, "10.2.0.1")
    await known.require_open("ris", "10.1.2.3")
    with pytest.raises(Forbidden):
        await known.require_open("ris", "10.2.0.1")


async def test_what_ends_counts_no_more_within_about_a_second_in_another_process(database: Database) -> None:
    """The copies are of two processes; the first has just looked."""
    await _add(database)
    ending, staying = await _key(database), await _key(database)
    known = KnownClients(database, remembered_s=0.2)
    await known.holder_of(ending, None)
    await known.require_open("ris", None)
    async with database.transaction() as conn:
        await secrets.revoke(conn, (await secrets.of_client(conn, "ris"))[-1].id)
    await asyncio.sleep(0.25)
    with pytest.raises(Unauthorized):
        await known.holder_of(ending, None)
    await known.holder_of(staying, None)
    async with database.transaction() as conn:
        await clients.disable(conn, "ris")
    await asyncio.sleep(0.25)
    with pytest.raises(Unauthorized):
        await known.holder_of(staying, None)
    with pytest.raises(Unauthorized):
        await known.require_open("ris", None)


async def test_a_key_that_expires_counts_to_the_moment_and_no_longer(database: Database) -> None:
    await _add(database)
    key = await _key(database, lifetime=timedelta(seconds=2))
    known = KnownClients(database, remembered_s=60)
    await known.holder_of(key, None)
    await asyncio.sleep(2.05)
    with pytest.raises(Unauthorized):
        await known.holder_of(key, None)


async def test_requests_that_come_together_ask_the_database_once(database: Database) -> None:
    await _add(database)
    key, known = await _key(database), KnownClients(database, remembered_s=60)
    await asyncio.gather(*(known.holder_of(key, None) for _ in range(50)))
    await database.close()
    assert (await known.holder_of(key, None)).principal == "ris"


async def test_a_token_given_to_a_client_that_was_just_registered_counts_at_once(database: Database) -> None:
    await _add(database)
    known = KnownClients(database, remembered_s=60)
    await known.require_open("ris", None)
    await _add(database, "pacs")
    await asyncio.sleep(0.06)
    await known.require_open("pacs", None)
    with pytest.raises(Unauthorized):
        await known.require_open("nobody", None)


async def test_a_key_that_was_made_a_moment_ago_counts_and_false_ones_cost_few_questions(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _add(database)
    known = KnownClients(database, remembered_s=60)
    await known.holder_of(await _key(database), None)
    await asyncio.sleep(0.06)
    await known.holder_of(await _key(database), None)
    asked: list[int] = []
    read = known._read
    monkeypatch.setattr(known, "_read", lambda: asked.append(1) or read())
    for number in range(500):
        with pytest.raises(Unauthorized):
            await known.holder_of(f"wtr_{number:032x}_{'x' * 43}", None)
    assert len(asked) < 100
