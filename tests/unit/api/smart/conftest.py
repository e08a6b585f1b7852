"""The authorization server with its HTTP faces, on a database for each file."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from tests.smart_apps import BASE, FHIR, Site

from wetread.access.assertions import ClientKeys
from wetread.access.known_clients import KnownClients
from wetread.access.oauth_core import Authority
from wetread.access.signing_keys import SigningKeys
from wetread.access.tokens import Tokens, signing_key
from wetread.api import fhir, problem
from wetread.api.credentials import Credentials, authenticator
from wetread.api.smart import discovery, endpoints
from wetread.api.smart.cors import Cors
from wetread.domain.endpoint import AllowedEndpoints
from wetread.errors import WetreadError
from wetread.record.audit import audit
from wetread.store.database import Database
from wetread.wire.fetch import Fetch


@pytest.fixture(scope="session")
def key_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys are made once: an RSA key takes its time."""
    return tmp_path_factory.mktemp("keys")


async def _nobody_is_told(*_: object) -> None:
    pass


@pytest.fixture(scope="module")
async def site(module_database: Database, key_folder: Path) -> AsyncIterator[Site]:
    fetch = Fetch(AllowedEndpoints.parse(["127.0.0.0/8"]))
    authority = Authority(
        module_database,
        Tokens(signing_key(key_folder / "token.key"), "urn:wetread:server"),
        SigningKeys(key_folder / "id_token.keys"),
        ClientKeys(fetch),
        BASE,
        FHIR,
    )
    authenticate = authenticator(Credentials(module_database, authority.tokens, KnownClients(module_database), True))
    app = FastAPI()
    app.add_middleware(Cors, database=module_database)
    app.include_router(discovery.router(authority))
    app.include_router(endpoints.router(authority, authenticate))
    app.include_router(fhir.router(module_database, authenticate, audit.write, FHIR, on_write=_nobody_is_told))

    @app.exception_handler(WetreadError)
    async def on_error(request: Request, error: WetreadError) -> Response:
        return problem.problem(error)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=BASE) as http:
        yield Site(authority, http)
    await fetch.close()


@pytest.fixture
def database(module_database: Database) -> Database:
    return module_database
