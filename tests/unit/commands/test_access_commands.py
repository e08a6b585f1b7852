"""`wetread client` and `wetread user`, beside a running server."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from pathlib import Path

import pytest
from joserfc.jwk import ECKey
from tests.read_studies import audited
from typer.testing import CliRunner, Result

from wetread.access import secrets
from wetread.access.clients import clients
from wetread.access.clients.known import KnownClients
from wetread.access.people import accounts, passwords, sessions
from wetread.access.people.passwords import Passwords
from wetread.access.people.sessions import Lifetime
from wetread.commands.tree import cli
from wetread.errors import Conflict, InvalidInput, Misconfigured, NotFound, Unauthorized
from wetread.store.database import Database

PASSWORD = "correct horse battery staple"


@pytest.fixture
def config(database: Database, tmp_path: Path) -> Path:
    file = tmp_path / "wetread.toml"
    file.write_text(f'database_url = "{database.url}"\n', encoding="utf-8")
    return file


async def wetread(config: Path, *arguments: str, typed: str = "") -> Result:
    command = [*arguments, "--config", str(config), "--data-dir", str(config.parent / "data")]
    return await asyncio.to_thread(CliRunner().invoke, cli, command, input=typed)


async def done(config: Path, *arguments: str, typed: str = "") -> str:
    result = await wetread(config, *arguments, typed=typed)
    assert result.exit_code == 0, result.output
    return result.stdout


async def test_a_symmetric_client_gets_a_secret_that_is_shown_once(config: Path, database: Database) -> None:
    secret = (await done(config, "client", "add", "ris", "--kind", "symmetric", "--scope", "system/*.rs")).strip()
    assert len(secret) == 43
    async with database.transaction() as conn:
        assert await secrets.check(conn, "ris", secret)
        [kept] = await secrets.of_client(conn, "ris")
    told = await done(config, "client", "show", "ris") + await done(config, "client", "list")
    assert kept.id in told
    assert secret not in told
    async with database.transaction() as conn:
        [(bodies,)] = await (await conn.execute("SELECT string_agg(body, '') FROM audit_event")).fetchall()
    assert "ris" in bodies
    assert secret not in bodies
    assert [row[:2] for row in await audited(database)] == [("client-changed", "0")]


async def test_rotation_leaves_the_old_secret_for_the_overlap(config: Path, database: Database) -> None:
    old = (await done(config, "client", "add", "ris", "--kind", "symmetric", "--scope", "system/*.rs")).strip()
    new = (await done(config, "client", "rotate", "ris", "--overlap", "1h")).strip()
    async with database.transaction() as conn:
        assert await secrets.check(conn, "ris", old)
        assert await secrets.check(conn, "ris", new)
    await done(config, "client", "rotate", "ris", "--overlap", "0s")
    async with database.transaction() as conn:
        assert not await secrets.check(conn, "ris", old)
        assert not await secrets.check(conn, "ris", new)


async def test_an_api_key_has_no_more_than_its_client(config: Path, database: Database) -> None:
    await done(
        config, "client", "add", "ris", "--kind", "symmetric", "--scope", "system/*.rs patient/*.r", "--role", "service"
    )
    key = (await done(config, "client", "key", "ris", "--expires", "90d", "--scope", "system/ImagingStudy.r")).strip()
    reader = await KnownClients(database).holder_of(key, "10.0.0.1")
    assert [str(scope) for scope in reader.scopes] == ["system/ImagingStudy.r"]
    assert reader.roles == {"service"}
    for more in (
        ("--scope", "system/Patient.c"),
        ("--scope", "patient/Patient.r"),
        ("--scope", "system/Observation.rs openid"),
        ("--role", "administrator"),
    ):
        refused = await wetread(config, "client", "key", "ris", "--expires", "90d", *more)
        assert isinstance(refused.exception, InvalidInput), more


async def test_what_is_disabled_or_revoked_ends(config: Path, database: Database) -> None:
    await done(config, "client", "add", "ris", "--kind", "symmetric", "--scope", "system/*.rs")
    keys = [(await done(config, "client", "key", "ris", "--expires", "90d")).strip() for _ in range(2)]
    known = KnownClients(database, remembered_s=0)
    identity = keys[0].split("_")[1]
    async with database.transaction() as conn:
        [whole] = [s.id for s in await secrets.of_client(conn, "ris") if s.id.replace("-", "") == identity]
    await done(config, "client", "revoke", whole)
    with pytest.raises(Unauthorized):
        await known.holder_of(keys[0], None)
    await known.holder_of(keys[1], None)
    await done(config, "client", "disable", "ris")
    with pytest.raises(Unauthorized):
        await known.holder_of(keys[1], None)
    async with database.transaction() as conn:
        assert await clients.by_id(conn, "ris") is None
        rows = await (await conn.execute("SELECT subject FROM revocation")).fetchall()
    assert rows == [("client:ris",)]
    await done(config, "client", "enable", "ris")
    await known.holder_of(keys[1], None)


async def test_a_client_with_a_key_pair_brings_its_public_half(config: Path, database: Database) -> None:
    key = ECKey.generate_key("P-384", private=True)
    file = config.parent / "jwks.json"
    asymmetric = ("client", "add", "job", "--kind", "asymmetric", "--scope", "system/*.rs", "--jwks", str(file))
    file.write_text(json.dumps({"keys": [key.as_dict(private=True)]}))
    assert isinstance((await wetread(config, *asymmetric)).exception, InvalidInput)
    file.write_text("no json")
    assert isinstance((await wetread(config, *asymmetric)).exception, InvalidInput)
    file.write_text(json.dumps({"keys": [key.as_dict(private=False)]}))
    assert await done(config, *asymmetric) == ""
    async with database.transaction() as conn:
        client = await clients.named(conn, "job")
    assert client.jwks == {"keys": [key.as_dict(private=False)]}
    assert client.grant_types == {"client_credentials"}
    assert isinstance((await wetread(config, "client", "rotate", "job")).exception, InvalidInput)


async def test_a_client_registers_anew_and_loses_what_it_was_given_before(config: Path, database: Database) -> None:
    callback = "https://apps.example.org/callback"
    await done(
        config, "client", "add", "app", "--kind", "public", "--scope", "patient/*.rs", "--redirect-uri", callback
    )
    changed = ("client", "change", "app", "--scope", "openid patient/Observation.rs", "--network", "10.1.0.0/16")
    await done(config, *changed)
    async with database.transaction() as conn:
        client = await clients.named(conn, "app")
        rows = await (await conn.execute("SELECT subject FROM revocation")).fetchall()
    assert (client.redirect_uris, client.words) == ((callback,), {"openid"})
    assert ([str(s) for s in client.scopes], [str(n) for n in client.networks]) == (
        ["patient/Observation.rs"],
        ["10.1.0.0/16"],
    )
    assert rows == [("client:app",)]
    for wrong in (("--redirect-uri", "http://evil.example/"), ("--role", "administrator"), ("--scope", "root/*.r")):
        assert isinstance((await wetread(config, "client", "change", "app", *wrong)).exception, InvalidInput)
    assert isinstance((await wetread(config, "client", "change", "none", "--name", "x")).exception, NotFound)


async def test_a_person_is_made_with_a_password_from_standard_input(config: Path, database: Database) -> None:
    added = await done(config, "user", "add", "maria", "--role", "radiologist", typed=f"{PASSWORD}\n")
    async with database.transaction() as conn:
        kept = await passwords.kept(conn, "maria")
    assert kept is not None
    assert kept.startswith("$argon2id$")
    assert await Passwords().match(kept, PASSWORD)
    assert PASSWORD not in added + await done(config, "user", "list")
    for arguments, typed, refusal in (
        (("add", "eve", "--role", "radiologist"), "short\n", InvalidInput),
        (("add", "eve", "--role", "radiologist"), "", InvalidInput),
        (("add", "maria", "--role", "radiologist"), f"{PASSWORD}\n", Conflict),
        (("add", "eve", "--role", "wizard"), f"{PASSWORD}\n", Misconfigured),
        (("add", "Eve Adams"), f"{PASSWORD}\n", InvalidInput),
        (("roles", "nobody", "auditor"), "", NotFound),
        (("disable", "nobody"), "", NotFound),
        (("password", "nobody"), f"{PASSWORD}\n", NotFound),
    ):
        refused = await wetread(config, "user", *arguments, typed=typed)
        assert isinstance(refused.exception, refusal), arguments


async def test_a_name_stands_for_one_person_or_client_only(config: Path) -> None:
    await done(config, "user", "add", "maria", typed=f"{PASSWORD}\n")
    refused = await wetread(config, "client", "add", "maria", "--kind", "symmetric", "--scope", "system/*.rs")
    assert isinstance(refused.exception, Conflict)
    refused = await wetread(config, "user", "add", "anonymous", typed=f"{PASSWORD}\n")
    assert isinstance(refused.exception, Conflict)


async def test_what_changes_a_persons_rights_ends_what_is_open(config: Path, database: Database) -> None:
    await done(config, "user", "add", "maria", "--role", "radiologist", typed=f"{PASSWORD}\n")
    lifetime = Lifetime(timedelta(hours=1), timedelta(hours=1))

    async def signed_in() -> str:
        async with database.transaction() as conn:
            return await sessions.begin(conn, "maria", lifetime)

    async def still(value: str) -> bool:
        async with database.transaction() as conn:
            return await sessions.person(conn, value) is not None

    for command, typed in (
        (("password", "maria"), f"{PASSWORD} too\n"),
        (("totp-reset", "maria"), ""),
        (("roles", "maria", "auditor", "analyst"), ""),
        (("disable", "maria"), ""),
    ):
        value = await signed_in()
        assert await still(value)
        await done(config, "user", *command, typed=typed)
        assert not await still(value), command
    await done(config, "user", "enable", "maria")
    assert not await still(value), "what had ended stays so"
    await done(config, "user", "unlock", "maria")
    async with database.transaction() as conn:
        assert (await accounts.named(conn, "maria")).roles == {"auditor", "analyst"}
    changes = [row[:2] for row in await audited(database)]
    assert changes == [("account-changed", "0")] * 7
