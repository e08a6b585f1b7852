"""People, those whom an identity provider vouches for, and their sessions."""

from __future__ import annotations

from datetime import timedelta

import pytest

from wetread.access.clients import clients, registration
from wetread.access.people import accounts, pending_logins, sessions
from wetread.access.people.sessions import Lifetime
from wetread.errors import Conflict, Forbidden, InvalidInput, Misconfigured, Unauthorized
from wetread.store.database import Database

LIFETIME = Lifetime(timedelta(hours=12), timedelta(minutes=30))
ISSUER = "https://sso.example/realms/hospital"


@pytest.fixture
async def hospital(database: Database) -> Database:
    async with database.transaction() as conn:
        await accounts.add(conn, "maria", "Maria Curie", ["radiologist"], fhir_user="Practitioner/7")
    return database


async def test_a_person_reads_what_their_roles_open(hospital: Database) -> None:
    async with hospital.transaction() as conn:
        reader = (await accounts.named(conn, "maria")).reader()
    assert reader.may("r", "Observation")
    assert not reader.may("d", "Observation")
    assert not reader.may("r", "AuditEvent")
    assert (reader.principal, reader.roles, reader.client_id) == ("maria", {"radiologist"}, None)


async def test_a_name_is_one_that_nobody_can_mistake(hospital: Database) -> None:
    for name in ("", "Maria", "a b", "a:b", "a#b", "a/b", "a\n", "\u00e9va", "x" * 65, "-x"):
        async with hospital.transaction() as conn:
            with pytest.raises(InvalidInput):
                await accounts.add(conn, name, "Eve", [])


async def test_a_name_is_taken_once(hospital: Database) -> None:
    machine = registration.checked(name="RIS", kind="symmetric", scope="system/*.rs")
    async with hospital.transaction() as conn:
        for name in ("maria", "anonymous", "system", "wetread"):
            with pytest.raises(Conflict):
                await accounts.add(conn, name, "Eve", [])
            with pytest.raises(Conflict):
                await clients.add(conn, name, machine)
        with pytest.raises(Misconfigured):
            await accounts.add(conn, "eve", "Eve", ["wizard"])
        with pytest.raises(InvalidInput):
            await accounts.add(conn, "eve", "Eve", [], fhir_user="https://evil.example/Practitioner/1")


async def test_whom_a_provider_vouches_for_is_one_person_with_what_it_tells_now(hospital: Database) -> None:
    async with hospital.transaction() as conn:
        first = await accounts.vouched(conn, ISSUER, "8f3e", "Eve", ["radiologist"], "Practitioner/8")
        later = await accounts.vouched(conn, ISSUER, "8f3e", "Eve\r\nAdams", ["auditor"], "")
        assert later.name == first.name == f"{ISSUER}#8f3e"
        assert (later.display_name, later.roles, later.fhir_user) == ("EveAdams", {"auditor"}, "")
        assert await accounts.by_subject(conn, ISSUER, "8f3e") == later
        other = await accounts.vouched(conn, "https://other.example", "8f3e", "Eve", [], "")
        assert other.name != later.name
        for issuer, subject in ((ISSUER, ""), ("", "maria"), ("", ""), (ISSUER, "\x00"), (ISSUER, "8f3e\x00")):
            with pytest.raises(InvalidInput):
                await accounts.vouched(conn, issuer, subject, "Eve", [], "")
            assert await accounts.by_subject(conn, issuer, subject) is None


async def test_a_provider_cannot_open_what_the_site_has_disabled(hospital: Database) -> None:
    async with hospital.transaction() as conn:
        eve = await accounts.vouched(conn, ISSUER, "8f3e", "Eve", ["radiologist"], "")
        await accounts.disable(conn, eve.name)
        again = await accounts.vouched(conn, ISSUER, "8f3e", "Eve", ["radiologist"], "")
        assert again.disabled_at is not None
        with pytest.raises(Unauthorized):
            await sessions.begin(conn, eve.name, LIFETIME)


async def test_a_session_stands_for_its_person_until_it_is_over(hospital: Database) -> None:
    async with hospital.transaction() as conn:
        value = await sessions.begin(conn, "maria", LIFETIME, "10.0.0.1")
        signed = await sessions.person(conn, value)
        assert signed is not None
        assert signed.account.display_name == "Maria Curie"
        assert value.encode() not in signed.digest
        for wrong in ("", value[:-1], signed.digest.hex(), "\x00", "\udcff"):
            assert await sessions.person(conn, wrong) is None
        for change in (
            "seen_at = seen_at - interval '31 minutes'",
            "expires_at = clock_timestamp()",
            "ended_at = clock_timestamp()",
        ):
            value = await sessions.begin(conn, "maria", LIFETIME)
            assert await sessions.person(conn, value) is not None
            await conn.execute(f"UPDATE login_session SET {change}")
            assert await sessions.person(conn, value) is None, change
        assert await sessions.open_ones(conn, "maria") == []


async def test_a_session_that_is_used_does_not_grow_idle_however_short_that_is(hospital: Database) -> None:
    async with hospital.transaction() as conn:
        value = await sessions.begin(conn, "maria", Lifetime(timedelta(hours=1), timedelta(seconds=40)))
        for _ in range(4):
            await conn.execute("UPDATE login_session SET seen_at = seen_at - interval '30 seconds'")
            assert await sessions.person(conn, value) is not None
        await conn.execute("UPDATE login_session SET seen_at = seen_at - interval '30 seconds'")
        assert await sessions.person(conn, value, active=False) is not None
        await conn.execute("UPDATE login_session SET seen_at = seen_at - interval '30 seconds'")
        assert await sessions.person(conn, value) is None


async def test_new_roles_count_at_once_and_a_disabled_person_is_out(hospital: Database) -> None:
    async with hospital.transaction() as conn:
        value = await sessions.begin(conn, "maria", LIFETIME)
        await accounts.set_roles(conn, "maria", ["auditor"])
        signed = await sessions.person(conn, value)
        assert signed is not None
        assert signed.account.reader().roles == {"auditor"}
        await accounts.disable(conn, "maria")
        assert await sessions.person(conn, value) is None
        subjects = await (await conn.execute("SELECT subject FROM revocation")).fetchall()
    assert ("account:maria",) in subjects, "what apps hold for the person ends too"


async def test_a_session_that_ends_takes_the_tokens_that_hang_on_it_along(hospital: Database) -> None:
    async with hospital.transaction() as conn:
        kept, ended = [await sessions.begin(conn, "maria", LIFETIME) for _ in range(2)]
        this, other = await sessions.person(conn, kept), await sessions.person(conn, ended)
        assert this is not None
        assert other is not None
        assert not await sessions.end(conn, "eve", other.digest)
        assert await sessions.end_all(conn, "maria", but=this.digest) == 1
        assert not await sessions.end(conn, "maria", other.digest)
        [(subject,)] = await (await conn.execute("SELECT subject FROM revocation")).fetchall()
        assert subject == f"session:{other.digest.hex()}"
        assert await sessions.person(conn, kept) is not None


async def test_old_sessions_are_swept_away(hospital: Database) -> None:
    async with hospital.transaction() as conn:
        for _ in range(2):
            value = await sessions.begin(conn, "maria", LIFETIME)
        await conn.execute(
            "UPDATE login_session SET expires_at = clock_timestamp() - interval '8 days' WHERE digest <> %s",
            (sessions.digest(value),),
        )
        assert await sessions.sweep(conn, timedelta(days=7)) == 1
        assert await sessions.person(conn, value) is not None


def test_a_form_token_is_of_one_browser_and_one_purpose() -> None:
    token = sessions.form_token("cookie", "consent")
    sessions.check_form_token("cookie", "consent", token)
    for cookie, purpose, given in (
        ("cookie", "sign out", token),
        ("other", "consent", token),
        ("cookie", "consent", ""),
        ("cookie", "consent", token + "="),
        ("cookie", "consent", "\u00e9"),
        ("", "consent", sessions.form_token("", "consent")),
    ):
        with pytest.raises(Forbidden):
            sessions.check_form_token(cookie, purpose, given)


async def test_a_login_under_way_is_taken_once_and_in_time(hospital: Database) -> None:
    async with hospital.transaction() as conn:
        value = await pending_logins.put(conn, {"nonce": "n"}, timedelta(minutes=10))
        assert await pending_logins.look(conn, value) == {"nonce": "n"}
        assert await pending_logins.take(conn, value) == {"nonce": "n"}
        assert await pending_logins.take(conn, value) is None
        assert await pending_logins.look(conn, value) is None
        late = await pending_logins.put(conn, {}, timedelta(0))
        assert await pending_logins.look(conn, late) is None
        assert await pending_logins.take(conn, late) is None
        await pending_logins.put(conn, {}, timedelta(minutes=10))
        [(count,)] = await (await conn.execute("SELECT count(*) FROM pending_login")).fetchall()
        assert count == 1, "what is over is removed on the way"
