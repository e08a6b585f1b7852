"""What an app finds out before it has a token, and which pages of the web may read our answers."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from tests.smart_apps import BACK, BASE, FHIR, Pkce, Site

from wetread.access.clients import clients
from wetread.api.smart.discovery import CAPABILITIES, SCOPES

CONFIGURATION = "/fhir/.well-known/smart-configuration"
APP, STRANGER = "https://app.example", "https://stranger.example"


@pytest.mark.parametrize("accept", ["application/json", "application/fhir+json", "text/html", "application/xml", "*/*"])
async def test_the_configuration_is_json_whatever_is_accepted(site: Site, accept: str) -> None:
    answer = await site.http.get(CONFIGURATION, headers={"Accept": accept})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")


async def test_the_configuration_has_what_smart_and_openid_ask_for(site: Site) -> None:
    smart = (await site.http.get(CONFIGURATION)).json()
    openid = (await site.http.get("/.well-known/openid-configuration")).json()
    assert smart["issuer"] == openid["issuer"] == BASE
    assert smart["code_challenge_methods_supported"] == ["S256"]
    assert {"authorization_code", "client_credentials"} <= set(smart["grant_types_supported"])
    assert "private_key_jwt" in smart["token_endpoint_auth_methods_supported"]
    assert set(smart["token_endpoint_auth_signing_alg_values_supported"]) == {"RS384", "ES384"}
    assert openid["id_token_signing_alg_values_supported"] == ["RS256"]
    assert openid["subject_types_supported"] == ["public"]
    assert set(smart["capabilities"]) == set(CAPABILITIES)
    for document in (smart, openid):
        for name, value in document.items():
            if name.endswith(("_endpoint", "_uri")):
                assert urlsplit(value).scheme == "https", name
    for path in (smart["jwks_uri"],):
        assert (await site.http.get(path)).json()["keys"]


async def test_every_scope_that_is_told_of_can_be_registered_and_given(site: Site) -> None:
    app = await site.register(scope=" ".join(SCOPES))
    _, signed = await site.person()
    wanted = [
        s for s in SCOPES if not s.startswith("system/") and s not in ("introspect", "launch", "launch/encounter")
    ]
    given = await app.tokens(signed, scope=" ".join(wanted))
    assert given["scope"].split() == wanted


async def test_the_capability_statement_leads_to_the_endpoints(site: Site) -> None:
    statement = (await site.http.get("/fhir/metadata")).json()
    security = statement["rest"][0]["security"]
    assert security["cors"] is True
    assert security["service"][0]["coding"][0]["code"] == "SMART-on-FHIR"
    (uris,) = [e for e in security["extension"] if e["url"].endswith("/StructureDefinition/oauth-uris")]
    found = {each["url"]: each["valueUri"] for each in uris["extension"]}
    assert found["authorize"] == f"{BASE}/oauth/authorize"
    assert found["token"] == f"{BASE}/oauth/token"


@pytest.mark.parametrize(
    "path", [CONFIGURATION, "/.well-known/openid-configuration", "/oauth/jwks.json", "/fhir/metadata"]
)
async def test_discovery_is_for_pages_of_any_origin(site: Site, path: str) -> None:
    answer = await site.http.get(path, headers={"Origin": STRANGER})
    assert answer.headers["access-control-allow-origin"] == "*"
    asked = {"Origin": STRANGER, "Access-Control-Request-Method": "GET"}
    preflight = await site.http.options(path, headers=asked)
    assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (204, "*")


async def test_tokens_and_fhir_are_for_pages_of_registered_apps_only(site: Site) -> None:
    app = await site.register()
    _, signed = await site.person()
    pkce = Pkce.new()
    code = (await app.authorized(signed, pkce))["code"]
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": BACK,
        "code_verifier": pkce.verifier,
        "client_id": app.client_id,
    }
    answer = await site.http.post("/oauth/token", data=form, headers={"Origin": APP})
    assert answer.headers["access-control-allow-origin"] == APP
    bearer = {"Authorization": f"Bearer {answer.json()['access_token']}"}
    for path in ("/fhir/Patient", "/fhir/Patient/nobody", "/fhir/nothing/at/all"):
        read = await site.http.get(path, headers={**bearer, "Origin": APP})
        assert read.headers["access-control-allow-origin"] == APP, path
        assert "access-control-allow-credentials" not in read.headers
        for origin in (STRANGER, "null", f"{APP}.evil.example", "http://app.example", "https://app.example:8443"):
            strange = await site.http.get(path, headers={**bearer, "Origin": origin})
            assert "access-control-allow-origin" not in strange.headers
            assert "Origin" in strange.headers["vary"]
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    for path in ("/oauth/token", "/fhir/Patient"):
        preflight = await site.http.options(path, headers={**asked, "Origin": APP})
        assert preflight.status_code == 204
        assert "Authorization" in preflight.headers["access-control-allow-headers"]
        refused = await site.http.options(path, headers={**asked, "Origin": STRANGER})
        assert refused.status_code in (401, 405)
        assert "access-control-allow-origin" not in refused.headers


async def test_pages_for_people_are_for_no_other_origin(site: Site) -> None:
    await site.register()
    for path in ("/login", "/account/apps", "/oauth/authorize", "/worklist"):
        assert "access-control-allow-origin" not in (await site.http.get(path, headers={"Origin": APP})).headers


async def test_the_origin_of_a_disabled_app_is_a_stranger_soon(site: Site) -> None:
    app = await site.register(redirect_uris=["https://gone.example/back"])
    async with site.authority.database.transaction() as conn:
        await clients.disable(conn, app.client_id)
    cors = site.app.middleware_stack
    origins = next(layer for layer in _layers(cors) if hasattr(layer, "_origins"))._origins
    origins._until = 0.0
    assert not await origins.knows("https://gone.example")
    assert await origins.knows(APP)


def _layers(layer: object) -> list[object]:
    found = []
    while layer is not None:
        found.append(layer)
        layer = getattr(layer, "app", None) or getattr(layer, "_app", None)
    return found


async def test_a_launch_needs_the_right_role_and_shows_nothing_new(site: Site) -> None:
    app = await site.register()
    wish = {"client_id": app.client_id, "patient": "nobody"}
    assert (await site.http.post("/oauth/launch", json=wish)).status_code == 401
    _, signed = await site.person()
    token = (await app.tokens(signed))["access_token"]
    by_app = await site.http.post("/oauth/launch", json=wish, headers={"Authorization": f"Bearer {token}"})
    assert by_app.status_code == 403
    assert (await site.http.post("/oauth/launch", json=wish, headers=site.operator())).status_code == 404
    for wrong in (
        {"client_id": "nobody"},
        {"client_id": app.client_id, "patient": "../x"},
        {"client_id": app.client_id, "encounter": "e"},
        {"client_id": app.client_id, "fhirContext": [{}]},
        {"client_id": app.client_id, "fhirContext": [{"reference": "Patient/1"}]},
        {"client_id": app.client_id, "fhirContext": [{"reference": "https://elsewhere.example/ImagingStudy/1"}]},
        {"client_id": app.client_id, "fhirContext": [{"canonical": "http://x", "role": "mine"}]},
        {"client_id": app.client_id, "fhirContext": [{"canonical": 5}]},
        {"client_id": app.client_id, "intent": "<b>"},
    ):
        answer = await site.http.post("/oauth/launch", json=wrong, headers=site.operator())
        assert answer.status_code in (400, 404), wrong


async def test_a_launch_carries_the_study_as_fhir_context(site: Site) -> None:
    await site.put(resourceType="Patient", id="pat1")
    await site.put(resourceType="ImagingStudy", id="study1", status="available", subject={"reference": "Patient/pat1"})
    app = await site.register(scope="launch launch/imagingstudy patient/ImagingStudy.rs")
    _, signed = await site.person()
    context = [{"reference": "ImagingStudy/study1", "type": "ImagingStudy"}]
    begun = await site.http.post(
        "/oauth/launch",
        json={"client_id": app.client_id, "patient": "pat1", "fhirContext": context, "intent": "urn:wet-read"},
        headers=site.operator(),
    )
    assert begun.json()["iss"] == FHIR
    given = await app.tokens(
        signed, scope="launch launch/imagingstudy patient/ImagingStudy.rs", launch=begun.json()["launch"]
    )
    assert (given["patient"], given["fhirContext"], given["intent"]) == ("pat1", context, "urn:wet-read")
    assert given["scope"] == "launch launch/imagingstudy patient/ImagingStudy.rs"


async def test_a_launch_mixes_no_two_patients(site: Site) -> None:
    for one in ("one", "two"):
        await site.put(resourceType="Patient", id=one)
        await site.put(
            resourceType="Encounter",
            id=f"visit-{one}",
            status="planned",
            subject={"reference": f"Patient/{one}"},
            **{"class": {"code": "AMB"}},
        )
        await site.put(
            resourceType="ImagingStudy", id=f"study-{one}", status="available", subject={"reference": f"Patient/{one}"}
        )
    app = await site.register()
    wish = {"client_id": app.client_id, "patient": "one"}
    for of, expected in (("one", 201), ("two", 400)):
        for what in ({"encounter": f"visit-{of}"}, {"fhirContext": [{"reference": f"ImagingStudy/study-{of}"}]}):
            answer = await site.http.post("/oauth/launch", json={**wish, **what}, headers=site.operator())
            assert answer.status_code == expected, (what, answer.text)
