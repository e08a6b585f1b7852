"""What is revoked counts no more: here at once, in other processes soon."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from pathlib import Path

import pytest

from wetread.access import revocation, upkeep
from wetread.access.people import accounts, sessions
from wetread.access.people.sessions import Lifetime
from wetread.access.revocation import Kind, Revocations
from wetread.access.tokens import Basis, Tokens, signing_key
from wetread.errors import Unauthorized
from wetread.store.database import Database

HOUR = timedelta(hours=1)
BASIS = Basis(client_id="app", patient_id="p1", grant_id="g1", account="ana", session="ab12")


def tokens_of(tmp_path: Path, revocations: Revocations) -> Tokens:
    return Tokens(signing_key(tmp_path / "token.key"), "urn:here", revocations)


def is_good(tokens: Tokens, token: str) -> bool:
    try:
        tokens.verify(token)
    except Unauthorized:
        return False
    return True


@pytest.mark.parametrize(
    ("kind", "name"),
    [("client", "app"), ("grant", "g1"), ("account", "ana"), ("session", "ab12"), ("token", "")],
)
async def test_a_token_falls_with_what_it_stands_on(
    kind: Kind, name: str, module_database: Database, tmp_path: Path
) -> None:
    tokens = tokens_of(tmp_path, Revocations())
    issued = tokens.issue("ana", "patient/*.rs openid", (), HOUR, BASIS)
    other = tokens.issue("ben", "user/*.rs", (), HOUR, Basis(client_id="other", grant_id="g2", account="ben"))
    assert is_good(tokens, issued.token)
    async with module_database.transaction() as conn:
        await tokens.revocations.revoke(conn, kind, name or issued.token_id)
    assert not is_good(tokens, issued.token)
    assert is_good(tokens, other.token)


async def test_another_process_hears_of_it_from_the_table(module_database: Database, tmp_path: Path) -> None:
    here, there = tokens_of(tmp_path, Revocations()), tokens_of(tmp_path, Revocations())
    issued = here.issue("ana", "user/*.rs", (), HOUR, Basis(grant_id="heard"))
    assert is_good(there, issued.token)
    stop = asyncio.Event()
    watching = asyncio.create_task(upkeep.run(module_database, there.revocations, stop, every_s=0.01))
    async with module_database.transaction() as conn:
        await revocation.revoke(conn, "grant", "heard")
    async with asyncio.timeout(10):
        while is_good(there, issued.token):  # noqa: ASYNC110 - what another process does has no event here
            await asyncio.sleep(0.01)
    stop.set()
    await watching


async def test_a_revocation_that_is_not_committed_yet_is_not_lost_when_the_copy_is_renewed(
    module_database: Database, tmp_path: Path
) -> None:
    tokens = tokens_of(tmp_path, Revocations())
    issued = tokens.issue("ana", "user/*.rs", (), HOUR, Basis(grant_id="uncommitted"))
    async with module_database.transaction() as conn:
        await tokens.revocations.revoke(conn, "grant", "uncommitted")
        async with module_database.statements() as other:
            await tokens.revocations.refresh(other)
        assert not is_good(tokens, issued.token)


async def test_what_is_heard_later_comes_to_what_was_heard_before(module_database: Database, tmp_path: Path) -> None:
    here, there = Revocations(), tokens_of(tmp_path, Revocations())
    issued = [there.issue("ana", "user/*.rs", (), HOUR, Basis(grant_id=name)).token for name in ("first", "second")]
    for number, name in enumerate(("first", "second"), 1):
        async with module_database.transaction() as conn:
            await here.revoke(conn, "grant", name)
        async with module_database.statements() as conn:
            await there.revocations.refresh(conn)
        assert [is_good(there, token) for token in issued].count(False) == number


async def test_what_a_client_gets_after_its_tokens_were_revoked_counts(
    module_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = tokens_of(tmp_path, Revocations())
    async with module_database.transaction() as conn:
        await tokens.revocations.revoke(conn, "client", "again")
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now + 2)
    assert is_good(tokens, tokens.issue("client:again", "system/*.rs", (), HOUR, Basis(client_id="again")).token)


async def test_a_revocation_is_forgotten_when_it_could_end_nothing_more(module_database: Database) -> None:
    async with module_database.transaction() as conn:
        await revocation.revoke(conn, "token", "old", timedelta(0))
        await revocation.revoke(conn, "token", "young", HOUR)
        assert await revocation.forget(conn) == 1
        left = [
            row[0] async for row in await conn.execute("SELECT subject FROM revocation WHERE subject LIKE 'token:%g'")
        ]
    assert left == ["token:young"]


def test_a_token_says_whom_it_was_given_to_and_for_which_patient(tmp_path: Path) -> None:
    tokens = tokens_of(tmp_path, Revocations())
    verified = tokens.verified(tokens.issue("ana", "launch/patient patient/*.rs", (), HOUR, BASIS).token)
    assert (verified.reader.principal, verified.reader.client_id, verified.reader.patient_id) == ("ana", "app", "p1")
    assert [str(scope) for scope in verified.reader.scopes] == ["patient/*.rs"]
    assert (verified.basis, verified.scope) == (BASIS, "launch/patient patient/*.rs")


async def test_what_is_over_is_swept_away_and_what_is_not_stays(module_database: Database) -> None:
    async with module_database.transaction() as conn:
        await accounts.add(conn, "swept", "Swept", ["radiologist"])
        cookie = await sessions.begin(conn, "swept", Lifetime(HOUR, HOUR))
        await conn.execute(
            "INSERT INTO login_session (digest, account_name, idle, expires_at)"
            " VALUES ('old', 'swept', '1 h', clock_timestamp() - interval '31 days')"
        )
        await conn.execute(
            "INSERT INTO seen_assertion VALUES ('c', 'old', now() - interval '1 s'), ('c', 'new', 'infinity')"
        )
        await upkeep.sweep(conn)
        assert await sessions.person(conn, cookie)
        counts = await (
            await conn.execute("SELECT (SELECT count(*) FROM login_session), (SELECT count(*) FROM seen_assertion)")
        ).fetchone()
    assert counts == (1, 1)


@pytest.mark.parametrize(("kind", "name"), [("grant", "g1"), ("session", "ab12"), ("token", "")])
async def test_what_never_opens_again_ends_a_token_of_a_clock_that_is_ahead(
    kind: Kind, name: str, module_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens, now = tokens_of(tmp_path, Revocations()), time.time()
    monkeypatch.setattr(time, "time", lambda: now + 20)
    issued = tokens.issue("ana", "patient/*.rs", (), HOUR, BASIS)
    async with module_database.transaction() as conn:
        await tokens.revocations.revoke(conn, kind, name or issued.token_id)
    assert not is_good(tokens, issued.token)


async def test_a_person_who_loses_a_role_at_the_provider_loses_what_apps_were_given(
    module_database: Database, tmp_path: Path
) -> None:
    tokens, issuer = tokens_of(tmp_path, Revocations()), "https://idp.example"

    async def comes_in(*roles: str) -> None:
        async with module_database.transaction() as conn:
            await accounts.vouched(conn, issuer, "ida", "Ida", roles, "")
        async with module_database.statements() as conn:
            await tokens.revocations.refresh(conn)

    await comes_in("radiologist", "auditor")
    issued = tokens.issue(f"{issuer}#ida", "user/*.rs", (), HOUR, Basis(account=f"{issuer}#ida"))
    await comes_in("auditor", "radiologist")
    assert is_good(tokens, issued.token)
    await comes_in("radiologist")
    assert not is_good(tokens, issued.token)


async def test_a_token_in_the_making_ends_with_the_change_that_it_did_not_see(
    module_database: Database, tmp_path: Path
) -> None:
    tokens = tokens_of(tmp_path, Revocations())
    async with module_database.transaction() as conn:
        await accounts.add(conn, "cara", "Cara", ["radiologist"])

    async def change() -> None:
        async with module_database.transaction() as conn:
            await accounts.set_roles(conn, "cara", ["auditor"])

    async with module_database.transaction() as conn:
        await accounts.by_name(conn, "cara", held=True)
        changing = asyncio.create_task(change())
        await asyncio.sleep(0.2)
        assert not changing.done()
        issued = tokens.issue("cara", "user/*.rs", (), HOUR, Basis(account="cara"))
    await changing
    async with module_database.transaction() as conn:
        await tokens.revocations.refresh(conn)
    assert not is_good(tokens, issued.token)
