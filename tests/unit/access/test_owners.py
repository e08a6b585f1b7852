"""Who owns a subscription may see less later than when they made it; never more."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from tests.smart_apps import App, Key, Site, smart_site

from wetread.access.clients import clients, registration
from wetread.access.oauth import grants
from wetread.access.owners import reader_now
from wetread.access.people import accounts, sessions
from wetread.access.people.sessions import Signed
from wetread.domain.reader import SYSTEM, Reader, Scope
from wetread.record.subscriptions.rows import owner_row
from wetread.store.database import Database

ASKED = "launch/patient online_access offline_access patient/Task.rs patient/Observation.rs"


@pytest.fixture(scope="module")
async def site(module_database: Database, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with smart_site(module_database, tmp_path_factory.mktemp("keys")) as built:
        yield built


@pytest.fixture
def database(module_database: Database) -> Database:
    return module_database


async def now(database: Database, owner: dict[str, Any]) -> Reader | None:
    async with database.transaction() as conn:
        return await reader_now(conn, owner)


def scopes(reader: Reader | None) -> set[str]:
    assert reader is not None
    return {str(scope) for scope in reader.scopes}


async def machine(site: Site, scope: str, *roles: str) -> tuple[App, dict[str, Any]]:
    """A client that came for itself, and the owner that its token made."""
    key = Key.ec()
    app = await site.backend(key, scope, roles=roles)
    answer = await app.token(
        grant_type="client_credentials", scope=scope, client_assertion=key.assertion(app.client_id)
    )
    return app, owner_row(site.authority.tokens.verify(answer.json()["access_token"]))


async def registered_anew(database: Database, app: App, scope: str, *roles: str) -> None:
    async with database.transaction() as conn:
        found = await clients.named(conn, app.client_id)
        wanted = registration.checked(
            name=found.name,
            kind=found.kind,
            scope=scope,
            redirect_uris=found.redirect_uris,
            grant_types=found.grant_types,
            roles=roles,
            jwks=found.jwks,
        )
        await clients.change(conn, app.client_id, wanted)


async def given(site: Site, scope: str, *roles: str) -> tuple[App, Signed, dict[str, Any]]:
    """An app, the person who let it in, and the owner that its token made."""
    app = await site.register(scope=ASKED)
    _, signed = await site.person(*roles)
    answer = await app.tokens(signed, scope=scope)
    return app, signed, owner_row(site.authority.tokens.verify(answer["access_token"]))


async def test_a_machine_keeps_what_it_still_is_registered_for(site: Site, database: Database) -> None:
    app, owner = await machine(site, "system/Task.rs system/Observation.rs", "engineer", "service")
    assert scopes(await now(database, owner)) == {"system/Task.rs", "system/Observation.rs"}
    await registered_anew(database, app, "system/Task.cruds system/Observation.rs?category=imaging", "engineer")
    left = await now(database, owner)
    assert scopes(left) == {"system/Task.rs", "system/Observation.rs?category=imaging"}
    assert left is not None
    assert left.roles == {"engineer"}
    await registered_anew(database, app, "system/Patient.rs")
    left = await now(database, owner)
    assert left is not None
    assert not left.scopes
    assert not left.roles


async def test_a_client_that_is_disabled_has_nothing_until_it_is_enabled(site: Site, database: Database) -> None:
    app, owner = await machine(site, "system/Task.rs")
    async with database.transaction() as conn:
        await clients.disable(conn, app.client_id)
    assert await now(database, owner) is None
    async with database.transaction() as conn:
        await clients.enable(conn, app.client_id)
    assert scopes(await now(database, owner)) == {"system/Task.rs"}


async def test_an_app_has_what_its_person_may_do_and_itself_is_registered_for(site: Site, database: Database) -> None:
    app, signed, owner = await given(site, ASKED, "administrator")
    told = await now(database, owner)
    assert scopes(told) == {"patient/Task.rs", "patient/Observation.rs"}
    assert told is not None
    assert (told.principal, told.client_id, told.patient_id) == (signed.account.name, app.client_id, "pat1")
    async with database.transaction() as conn:
        await accounts.set_roles(conn, signed.account.name, ["physicist"])
    assert scopes(await now(database, owner)) == {"patient/Observation.rs"}
    await registered_anew(database, app, "launch/patient patient/Task.rs")
    assert scopes(await now(database, owner)) == set()


@pytest.mark.parametrize("disabled", ["person", "client"])
async def test_an_app_has_nothing_where_its_person_or_itself_is_disabled(
    disabled: str, site: Site, database: Database
) -> None:
    app, signed, owner = await given(site, ASKED)
    assert await now(database, owner) is not None
    async with database.transaction() as conn:
        if disabled == "person":
            await accounts.disable(conn, signed.account.name)
        else:
            await clients.disable(conn, app.client_id)
    assert await now(database, owner) is None


async def test_a_grant_that_is_taken_back_takes_what_was_made_with_it(site: Site, database: Database) -> None:
    app, signed, owner = await given(site, ASKED)
    again = owner_row(site.authority.tokens.verify((await app.tokens(signed, scope=ASKED))["access_token"]))
    async with database.transaction() as conn:
        await grants.revoke(conn, site.authority.tokens.revocations, owner["grant_id"], timedelta(hours=1))
    assert await now(database, owner) is None
    assert await now(database, again) is not None


@pytest.mark.parametrize(("scope", "goes_on"), [(ASKED, True), (ASKED.replace("offline_access", ""), False)])
async def test_only_offline_access_goes_on_after_the_person_has_signed_out(
    scope: str, goes_on: bool, site: Site, database: Database
) -> None:
    _, signed, owner = await given(site, scope)
    assert await now(database, owner) is not None
    async with database.transaction() as conn:
        await conn.execute(
            "UPDATE login_session SET seen_at = now() - interval '1 day' WHERE digest = %s", (signed.digest,)
        )
    assert await now(database, owner) is not None  # nobody at the browser, and the app still open
    async with database.transaction() as conn:
        await sessions.end(conn, signed.account.name, signed.digest)
    assert (await now(database, owner) is not None) == goes_on


async def test_a_grant_that_is_over_by_time_gives_nothing(site: Site, database: Database) -> None:
    _, _, owner = await given(site, ASKED)
    async with database.transaction() as conn:
        await conn.execute(
            "UPDATE authorization_grant SET expires_at = now() WHERE id = %s::uuid", (owner["grant_id"],)
        )
    assert await now(database, owner) is None


async def test_a_person_who_came_without_an_app_has_the_roles_of_now(site: Site, database: Database) -> None:
    _, signed = await site.person("radiologist", "auditor")
    owner = owner_row(signed.account.reader())
    async with database.transaction() as conn:
        await accounts.set_roles(conn, signed.account.name, ["radiologist", "administrator"])
    left = await now(database, owner)
    assert left is not None
    assert left.roles == {"radiologist"}
    assert not left.may("d", "Patient")  # an administrator may, which the owner was not


@pytest.mark.parametrize("principal", ["operator:ana", "system"])
async def test_the_operator_and_wetread_itself_keep_what_they_had(principal: str, database: Database) -> None:
    reader = Reader(principal, SYSTEM.scopes, frozenset({"administrator"}))
    assert await now(database, owner_row(reader)) == reader


@pytest.mark.parametrize("principal", ["nobody", "anonymous", "https://idp.example#7", ""])
async def test_who_is_gone_has_nothing(principal: str, database: Database) -> None:
    assert await now(database, owner_row(Reader(principal, (Scope.parse("system/*.rs"),)))) is None
    assert await now(database, owner_row(Reader("system", SYSTEM.scopes, client_id="gone"))) is None
