"""SMART App Launch 2.2 at a running server, check by check as a certification kit asks: apps that people let in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
import jwt
import pytest

from tests.flow.conftest import ROOT, Hospital
from tests.smart_apps import Key, Pkce
from tests.smart_visitor import BACK, LAUNCH, SCOPE, App, Person, add_client, add_person, back

REGISTERED = (
    "openid fhirUser profile launch launch/patient launch/encounter offline_access online_access"
    " patient/*.cruds user/*.rs"
)
ORIGIN = "http://127.0.0.1:9"
CATEGORY = "http://terminology.hl7.org/CodeSystem/observation-category"
B64TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750 2.1


@dataclass(frozen=True)
class Ward:
    """What is known of the server by those who try it: its apps, one person, and some patients."""

    hospital: Hospital
    public: App
    symmetric: App
    asymmetric: App
    ana: Person
    patient: str
    other: str
    encounter: str
    imaging: str
    laboratory: str

    @property
    def fhir(self) -> str:
        return self.public.fhir

    def let_in(self, app: App | None = None, **changed: Any) -> dict[str, Any]:
        return (app or self.public).let_in(self.ana, patient=self.patient, family="Smartlaunch", **changed)

    def launch(self, **context: Any) -> dict[str, str]:
        with self.hospital.client(scope="user/*.rs", roles=("radiologist",)) as ehr:
            begun = ehr.post("/oauth/launch", json={"client_id": self.public.client_id, **context})
            assert begun.status_code == 201, begun.text
            answer: dict[str, str] = begun.json()
            return answer


def observation(category: str, patient: str) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "status": "final",
        "category": [{"coding": [{"system": CATEGORY, "code": category}]}],
        "code": {"coding": [{"system": "http://loinc.org", "code": "36643-5"}]},
        "subject": {"reference": f"Patient/{patient}"},
    }


@pytest.fixture(scope="module")
def ward(hospital: Hospital) -> Ward:
    with hospital.client() as client:

        def made(resource: dict[str, Any]) -> str:
            answer = client.post(f"/fhir/{resource['resourceType']}", json=resource)
            assert answer.status_code == 201, answer.text
            return str(answer.json()["id"])

        name = [{"family": "Smartlaunch", "given": ["One"]}]
        other = made({"resourceType": "Patient", "name": name})
        link = [{"other": {"reference": f"Patient/{other}"}, "type": "seealso"}]
        patient = made({"resourceType": "Patient", "name": name, "link": link})
        subject = {"reference": f"Patient/{patient}"}
        encounter = made(
            {"resourceType": "Encounter", "status": "finished", "class": {"code": "AMB"}, "subject": subject}
        )
        ids = [made(observation(category, patient)) for category in ("imaging", "laboratory")]
        made(observation("imaging", other))
        practitioner = made({"resourceType": "Practitioner", "name": [{"family": "Example"}]})
    add_person(hospital, "ana", fhir_user=f"Practitioner/{practitioner}")
    fhir, key = f"{hospital.server.url}/fhir", Key.ec()
    more = {"redirect_uris": [BACK], "launch_uri": LAUNCH}
    add_client(hospital, "check-public", "public", REGISTERED, **more)
    secret = add_client(hospital, "check-symmetric", "symmetric", REGISTERED, **more)
    add_client(hospital, "check-asymmetric", "asymmetric", REGISTERED, key, **more)
    return Ward(
        hospital,
        App(fhir, "check-public"),
        App(fhir, "check-symmetric", secret),
        App(fhir, "check-asymmetric", key=key),
        Person(hospital.server.url, "ana"),
        patient,
        other,
        encounter,
        *ids,
    )


class TestDiscovery:
    @pytest.mark.parametrize("accept", ["*/*", "text/html", "application/fhir+xml", "application/json"])
    def test_is_json_whatever_is_accepted_with_absolute_addresses(self, ward: Ward, accept: str) -> None:
        answer = httpx.get(f"{ward.fhir}/.well-known/smart-configuration", headers={"Accept": accept})
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
        addresses = {name: value for name, value in answer.json().items() if name.endswith(("_endpoint", "_uri"))}
        assert {"authorization_endpoint", "token_endpoint", "jwks_uri"} <= set(addresses)
        assert all(urlsplit(address).scheme and urlsplit(address).netloc for address in addresses.values())

    def test_is_asked_for_by_head_too(self, ward: Ward) -> None:
        issuer = ward.public.configuration["issuer"]
        public = ("fhir/.well-known/smart-configuration", ".well-known/openid-configuration", "oauth/jwks.json")
        for path in public:
            asked, headed = httpx.get(f"{issuer}/{path}"), httpx.head(f"{issuer}/{path}")
            assert (headed.status_code, headed.content) == (200, b"")
            assert headed.headers["content-length"] == asked.headers["content-length"]

    def test_tells_what_smart_requires_and_no_plain_challenge(self, ward: Ward) -> None:
        told = ward.public.configuration
        assert told["issuer"] == ward.hospital.server.url
        assert {"authorization_code", "client_credentials"} <= set(told["grant_types_supported"])
        assert told["code_challenge_methods_supported"] == ["S256"]
        assert {"private_key_jwt", "client_secret_basic"} <= set(told["token_endpoint_auth_methods_supported"])
        assert set(told["token_endpoint_auth_signing_alg_values_supported"]) == {"RS384", "ES384"}
        assert {"openid", "fhirUser", "launch", "offline_access", "patient/*.rs"} <= set(told["scopes_supported"])

    def test_claims_all_capabilities_of_the_four_sets_and_no_app_state(self, ward: Ward) -> None:
        either_client = {"client-public", "client-confidential-symmetric", "client-confidential-asymmetric"}
        sets = [
            {"launch-standalone", "context-standalone-patient", "permission-patient"},
            {"launch-ehr", "context-ehr-patient", "permission-patient"},
            {"launch-standalone", "permission-user", "permission-patient"},
            {"launch-ehr", "context-ehr-patient", "context-ehr-encounter", "permission-user", "permission-patient"},
        ]
        claimed = set(ward.public.configuration["capabilities"])
        for each in sets:
            assert each | either_client <= claimed
        assert {"authorize-post", "sso-openid-connect", "permission-v1", "permission-v2"} <= claimed
        assert "smart-app-state" not in claimed

    def test_leads_to_endpoints_that_are_there(self, ward: Ward) -> None:
        told = ward.public.configuration
        assert httpx.get(told["authorization_endpoint"]).status_code == 400
        for name in ("token_endpoint", "introspection_endpoint", "revocation_endpoint"):
            assert httpx.post(told[name], data={"client_id": "nobody"}).json()["error"]
        assert ward.ana.at(told["management_endpoint"]).status_code == 200

    def test_keys_are_bare_public_keys_that_openid_discovery_names_too(self, ward: Ward) -> None:
        openid = httpx.get(f"{ward.public.configuration['issuer']}/.well-known/openid-configuration").json()
        assert openid["jwks_uri"] == ward.public.configuration["jwks_uri"]
        assert openid["id_token_signing_alg_values_supported"] == ["RS256"]
        for key in httpx.get(openid["jwks_uri"]).json()["keys"]:
            assert {"kty", "kid", "n", "e"} <= set(key)
            assert not {"x5c", "x5u", "d", "p", "q"} & set(key)

    def test_is_open_to_pages_of_every_origin(self, ward: Ward) -> None:
        for path in (".well-known/smart-configuration", "metadata"):
            answer = httpx.get(f"{ward.fhir}/{path}", headers={"Origin": "https://anywhere.example"})
            assert answer.headers["access-control-allow-origin"] == "*"

    def test_tokens_and_fhir_are_open_to_pages_of_registered_origins_only(self, ward: Ward) -> None:
        asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        for address in (ward.public.configuration["token_endpoint"], f"{ward.fhir}/Patient"):
            allowed = httpx.options(address, headers={"Origin": ORIGIN, **asked})
            assert allowed.headers["access-control-allow-origin"] == ORIGIN
            assert "authorization" in allowed.headers["access-control-allow-headers"].lower()
            other = httpx.options(address, headers={"Origin": "https://anywhere.example", **asked})
            assert "access-control-allow-origin" not in other.headers


class TestLaunch:
    @pytest.mark.parametrize("kind", ["public", "symmetric", "asymmetric"])
    def test_an_app_gets_what_a_person_gave_with_all_that_a_token_response_has(self, ward: Ward, kind: str) -> None:
        app: App = getattr(ward, kind)
        pkce = Pkce.new()
        came_back = ward.ana.answers(app.request(pkce), patient=ward.patient, family="Smartlaunch")
        assert came_back["state"] == "st/ä +&"
        answer = app.exchange(came_back["code"], pkce)
        assert (answer.headers["cache-control"], answer.headers["pragma"]) == ("no-store", "no-cache")
        assert answer.headers["content-type"] == "application/json"
        body = answer.json()
        assert (body["token_type"], body["expires_in"]) == ("Bearer", 3600)
        assert body["scope"] == SCOPE
        assert B64TOKEN.fullmatch(body["access_token"])
        assert B64TOKEN.fullmatch(body["refresh_token"])
        assert (body["patient"], body["need_patient_banner"]) == (ward.patient, True)
        assert httpx.get(body["smart_style_url"]).json()["color_background"]
        assert app.read(body["access_token"], f"Patient/{ward.patient}").json()["id"] == ward.patient

    def test_a_request_may_come_as_a_form(self, ward: Ward) -> None:
        pkce = Pkce.new()
        address = ward.public.configuration["authorization_endpoint"]
        sent = ward.ana.asks("POST", address, data=ward.public.parameters(pkce))
        assert sent.is_redirect
        came_back = ward.ana.answers(sent.headers["location"], patient=ward.patient, family="Smartlaunch")
        assert ward.public.exchange(came_back["code"], pkce).status_code == 200

    def test_a_person_who_says_no_sends_the_app_an_error(self, ward: Ward) -> None:
        asked = ward.public.request(Pkce.new())
        came_back = ward.ana.answers(asked, patient=ward.patient, family="Smartlaunch", decision="deny")
        assert (came_back["error"], came_back["state"]) == ("access_denied", "st/ä +&")
        assert "code" not in came_back

    def test_a_person_may_give_less_than_was_asked_for(self, ward: Ward) -> None:
        scope = "launch/patient patient/Observation.rs patient/Patient.r"
        body = ward.let_in(scope=scope, without={"patient/Observation.rs"})
        assert body["scope"].split() == ["launch/patient", "patient/Patient.r"]
        assert ward.public.read(body["access_token"], f"Patient/{ward.patient}").status_code == 200
        assert ward.public.read(body["access_token"], f"Observation/{ward.imaging}").status_code == 403

    @pytest.mark.parametrize(
        "changed",
        [{"aud": "https://elsewhere.example/fhir"}, {"launch": "invented", "scope": "launch patient/Patient.rs"}],
        ids=["aud", "launch"],
    )
    def test_no_code_for_another_server_or_an_invented_launch(self, ward: Ward, changed: dict[str, str]) -> None:
        came_back = back(ward.ana.at(ward.public.request(Pkce.new(), **changed)))
        assert came_back["error"] == "invalid_request"
        assert "code" not in came_back

    def test_nobody_is_sent_to_an_address_that_is_not_registered(self, ward: Ward) -> None:
        page = ward.ana.at(ward.public.request(Pkce.new(), redirect_uri="https://evil.example/back"))
        assert (page.status_code, "location" in page.headers) == (400, False)

    @pytest.mark.parametrize("verifier", [None, "", "x" * 43, "challenge"])
    def test_a_code_counts_only_with_its_verifier(self, ward: Ward, verifier: str | None) -> None:
        pkce = Pkce.new()
        came_back = ward.ana.answers(ward.public.request(pkce), patient=ward.patient, family="Smartlaunch")
        given = pkce.challenge if verifier == "challenge" else verifier
        assert ward.public.exchange(came_back["code"], pkce, code_verifier=given).status_code == 400

    def test_a_wrong_code_and_a_wrong_client_get_nothing(self, ward: Ward) -> None:
        assert ward.public.exchange("invented", Pkce.new()).json()["error"] == "invalid_grant"
        stranger = App(ward.fhir, "invented")
        assert stranger.exchange("invented", Pkce.new()).json()["error"] == "invalid_client"

    def test_the_id_token_is_signed_by_a_published_key_and_its_fhir_user_can_be_read(self, ward: Ward) -> None:
        body = ward.let_in(scope="openid fhirUser user/Practitioner.r", nonce="n-1")
        header = jwt.get_unverified_header(body["id_token"])
        assert header["alg"] == "RS256"
        key = jwt.PyJWKClient(ward.public.configuration["jwks_uri"]).get_signing_key(header["kid"])
        claims = jwt.decode(
            body["id_token"],
            key,
            algorithms=["RS256"],
            audience="check-public",
            issuer=ward.public.configuration["issuer"],
            options={"require": ["iss", "sub", "aud", "exp", "iat"]},
        )
        assert (claims["sub"], claims["nonce"]) == ("ana", "n-1")
        assert claims["fhirUser"].startswith(f"{ward.fhir}/Practitioner/")
        headers = {"Authorization": f"Bearer {body['access_token']}"}
        assert httpx.get(claims["fhirUser"], headers=headers).json()["resourceType"] == "Practitioner"

    def test_who_is_nobody_in_the_record_gets_no_fhir_user(self, ward: Ward) -> None:
        add_person(ward.hospital, "ben")
        body = ward.public.let_in(Person(ward.hospital.server.url, "ben"), scope="openid fhirUser user/Patient.rs")
        assert body["scope"].split() == ["openid", "user/Patient.rs"]
        assert "fhirUser" not in jwt.decode(body["id_token"], options={"verify_signature": False})

    def test_a_standalone_app_gets_the_visit_that_was_chosen(self, ward: Ward) -> None:
        body = ward.let_in(scope="launch/patient launch/encounter patient/Encounter.r", visit=True)
        assert (body["patient"], body["encounter"]) == (ward.patient, ward.encounter)
        assert "launch/encounter" in body["scope"].split()
        assert ward.public.read(body["access_token"], f"Encounter/{body['encounter']}").status_code == 200

    def test_a_launch_brings_patient_visit_context_and_intent_once(self, ward: Ward) -> None:
        context = [{"reference": f"Observation/{ward.imaging}", "type": "Observation", "role": "launch"}]
        begun = ward.launch(
            patient=ward.patient,
            encounter=ward.encounter,
            fhirContext=context,
            intent="reconcile",
            need_patient_banner=False,
        )
        assert begun["launch_url"].startswith(f"{LAUNCH}?iss=")
        scope = "launch openid patient/Patient.rs"
        pkce = Pkce.new()
        asked = ward.public.request(pkce, scope=scope, launch=begun["launch"], aud=begun["iss"])
        body = ward.public.exchange(ward.ana.answers(asked)["code"], pkce).json()
        assert (body["patient"], body["encounter"], body["intent"]) == (ward.patient, ward.encounter, "reconcile")
        assert (body["need_patient_banner"], body["fhirContext"]) == (False, context)
        assert body["scope"] == scope
        again = back(ward.ana.at(ward.public.request(Pkce.new(), scope=scope, launch=begun["launch"])))
        assert again["error"] == "invalid_request"

    @pytest.mark.parametrize(
        "member",
        [
            {},
            {"type": "ImagingStudy"},
            {"reference": "Patient/p1"},
            {"reference": "Encounter/e1"},
            {"reference": "ImagingStudy/s1", "role": "mine"},
        ],
    )
    def test_a_context_that_smart_does_not_allow_is_not_launched(self, ward: Ward, member: dict[str, str]) -> None:
        with ward.hospital.client(scope="user/*.rs", roles=("radiologist",)) as ehr:
            wish = {"client_id": "check-public", "patient": ward.patient, "fhirContext": [member]}
            assert ehr.post("/oauth/launch", json=wish).status_code in (400, 422)


class TestRefresh:
    def test_gives_a_new_token_with_the_same_scopes_and_context(self, ward: Ward) -> None:
        first = ward.let_in()
        answer = ward.public.token(grant_type="refresh_token", refresh_token=first["refresh_token"])
        second = answer.json()
        assert (answer.headers["cache-control"], answer.headers["pragma"]) == ("no-store", "no-cache")
        assert (second["scope"], second["token_type"], second["expires_in"]) == (first["scope"], "Bearer", 3600)
        assert (second["patient"], second["access_token"] != first["access_token"]) == (ward.patient, True)
        assert ward.public.read(second["access_token"], f"Patient/{ward.patient}").status_code == 200

    def test_gives_less_where_less_is_asked_for_and_never_more(self, ward: Ward) -> None:
        first = ward.let_in()
        asked = {"grant_type": "refresh_token", "refresh_token": first["refresh_token"]}
        more = ward.public.token(**asked, scope="patient/*.cruds")
        assert (more.status_code, more.json()["error"]) == (400, "invalid_scope")
        less = ward.public.token(**asked, scope="patient/Patient.r").json()
        assert less["scope"] == "patient/Patient.r"
        assert ward.public.read(less["access_token"], f"Observation/{ward.imaging}").status_code == 403

    def test_an_invented_one_and_another_clients_give_nothing(self, ward: Ward) -> None:
        assert ward.public.token(grant_type="refresh_token", refresh_token="x").json()["error"] == "invalid_grant"
        own = ward.let_in()["refresh_token"]
        stolen = ward.symmetric.token(grant_type="refresh_token", refresh_token=own)
        assert (stolen.status_code, stolen.json()["error"]) == (400, "invalid_grant")


class TestWhatATokenOpens:
    def test_nothing_opens_without_one(self, ward: Ward) -> None:
        for headers in ({}, {"Authorization": "Bearer invented"}):
            answer = httpx.get(f"{ward.fhir}/Patient/{ward.patient}", headers=headers)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"].startswith("Bearer")

    def test_a_patient_scope_opens_this_patient_only(self, ward: Ward) -> None:
        token = ward.let_in()["access_token"]
        assert ward.public.read(token, f"Patient/{ward.other}").status_code in (403, 404)
        found = ward.public.read(token, "Observation?_count=100").json()
        assert {entry["resource"]["id"] for entry in found["entry"]} == {ward.imaging, ward.laboratory}
        assert ward.public.read(token, f"Observation?patient={ward.other}").json().get("total", 0) == 0

    def test_a_linked_patient_stays_closed_as_the_documentation_says(self, ward: Ward) -> None:
        token = ward.let_in()["access_token"]
        (link,) = ward.public.read(token, f"Patient/{ward.patient}").json()["link"]
        assert ward.public.read(token, link["other"]["reference"]).status_code in (403, 404)
        assert ward.public.read(token, f"Patient?_id={ward.other}").json().get("entry", []) == []
        assert "`Patient.link`" in (ROOT / "docs" / "smart.md").read_text(encoding="utf-8")

    @pytest.mark.parametrize("granted", ["Patient", "Observation", "Encounter"])
    def test_a_type_opens_only_where_it_was_given(self, ward: Ward, granted: str) -> None:
        token = ward.let_in(scope=f"launch/patient patient/{granted}.rs")["access_token"]
        ids = {"Patient": ward.patient, "Observation": ward.imaging, "Encounter": ward.encounter}
        answers = {name: ward.public.read(token, f"{name}/{id}").status_code for name, id in ids.items()}
        assert answers == {name: 200 if name == granted else 403 for name in ids}

    def test_a_constrained_scope_reads_and_finds_exactly_what_fits(self, ward: Ward) -> None:
        wide = ward.let_in(scope="launch/patient patient/Observation.rs")["access_token"]
        narrow_scope = f"patient/Observation.rs?category={CATEGORY}|imaging"
        body = ward.let_in(scope=f"launch/patient {narrow_scope}")
        assert narrow_scope in body["scope"].split()
        narrow = body["access_token"]
        for query in (f"patient={ward.patient}", f"patient={ward.patient}&code=36643-5"):
            all_of_them = ward.public.read(wide, f"Observation?{query}").json()["entry"]
            fitting = ward.public.read(narrow, f"Observation?{query}").json()["entry"]
            assert {each["resource"]["id"] for each in all_of_them} == {ward.imaging, ward.laboratory}
            assert {each["resource"]["id"] for each in fitting} == {ward.imaging}
        assert ward.public.read(narrow, f"Observation/{ward.imaging}").status_code == 200
        assert ward.public.read(narrow, f"Observation/{ward.laboratory}").status_code in (403, 404)

    def test_scopes_of_smart_1_are_answered_in_its_own_words(self, ward: Ward) -> None:
        body = ward.let_in(scope="launch/patient patient/Observation.read patient/Patient.read")
        assert body["scope"].split() == ["launch/patient", "patient/Observation.read", "patient/Patient.read"]
        assert ward.public.read(body["access_token"], f"Observation/{ward.imaging}").status_code == 200
        found = ward.public.read(body["access_token"], "Observation").json()
        assert {entry["resource"]["id"] for entry in found["entry"]} == {ward.imaging, ward.laboratory}

    def test_a_user_scope_opens_what_the_person_may_and_no_more(self, ward: Ward) -> None:
        body = ward.let_in(scope="user/Patient.rs")
        assert "patient" not in body
        for patient in (ward.patient, ward.other):
            assert ward.public.read(body["access_token"], f"Patient/{patient}").status_code == 200
        made = httpx.post(
            f"{ward.fhir}/Patient",
            json={"resourceType": "Patient"},
            headers={"Authorization": f"Bearer {body['access_token']}"},
        )
        assert made.status_code == 403

    def test_a_person_cannot_give_what_they_have_not(self, ward: Ward) -> None:
        body = ward.let_in(scope="launch/patient patient/Patient.cruds patient/Observation.rs")
        assert set(body["scope"].split()) == {"launch/patient", "patient/Patient.rs", "patient/Observation.rs"}

    def test_each_entry_of_a_batch_needs_its_own_scope(self, ward: Ward) -> None:
        token = ward.let_in(scope="launch/patient patient/Patient.r")["access_token"]
        wanted = [f"Patient/{ward.patient}", f"Observation/{ward.imaging}", f"Patient/{ward.other}"]
        entries = [{"request": {"method": "GET", "url": url}} for url in wanted]
        answer = httpx.post(
            ward.fhir,
            json={"resourceType": "Bundle", "type": "batch", "entry": entries},
            headers={"Authorization": f"Bearer {token}"},
        )
        statuses = [each["response"]["status"][:3] for each in answer.json()["entry"]]
        assert statuses[0] == "200"
        assert set(statuses[1:]) <= {"403", "404"}

    def test_what_was_taken_back_opens_and_renews_nothing(self, ward: Ward) -> None:
        body = ward.let_in()
        revoked = httpx.post(
            ward.public.configuration["revocation_endpoint"],
            data={"client_id": "check-public", "token": body["refresh_token"]},
        )
        assert revoked.status_code == 200
        assert ward.public.read(body["access_token"], f"Patient/{ward.patient}").status_code == 401
        again = ward.public.token(grant_type="refresh_token", refresh_token=body["refresh_token"])
        assert (again.status_code, again.json()["error"]) == (400, "invalid_grant")
