"""People sign in through Keycloak, started as it comes, with a realm of a hospital; a browser goes between the two."""

from __future__ import annotations

import html
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from tests.flow.conftest import Hospital, Server
from tests.ports import free_port

from conformance import supply
from wetread.demo import peers

pytestmark = pytest.mark.conformance

REALM = Path(__file__).parents[2] / "conformance" / "keycloak" / "realm.json"
CONFIGURATION = """
[http]
port = {port}

[[access.providers]]
name = "keycloak"
display_name = "Keycloak"
issuer = "{issuer}"
client_id = "wetread"
client_secret = "a secret/of+wetread"
fhir_user_claim = "fhirUser"

[access.providers.roles]
radiology = ["radiologist"]
it = ["engineer"]
"""


@dataclass
class Keycloak:
    url: str

    @property
    def issuer(self) -> str:
        return f"{self.url}/realms/hospital"

    def admin(self) -> httpx.Client:
        """Its administration, as its own administrator."""
        form = {"grant_type": "password", "client_id": "admin-cli", "username": "root", "password": "for this test"}
        token = httpx.post(f"{self.url}/realms/master/protocol/openid-connect/token", data=form).json()["access_token"]
        return httpx.Client(
            base_url=f"{self.url}/admin/realms/hospital/", headers={"Authorization": f"Bearer {token}"}, timeout=30
        )


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def keycloak(port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keycloak]:
    """In development mode, on loopback, with its database in memory."""
    supply.program("java", "openjdk-17-jre-headless")
    home = supply.keycloak()
    here = f"http://127.0.0.1:{port}"
    realm = REALM.read_text().replace("@CALLBACK@", f"{here}/login/provider/keycloak/callback")
    realm = realm.replace("@BACKCHANNEL@", f"{here}/login/provider/keycloak/backchannel-logout")
    imported = home / "data" / "import"
    imported.mkdir(parents=True, exist_ok=True)
    (imported / "realm.json").write_text(realm.replace("@AFTER_LOGOUT@", f"{here}/login"))
    own = free_port()
    log = tmp_path_factory.mktemp("keycloak") / "keycloak.log"
    environment = {
        **os.environ,
        "JAVA_OPTS_KC_HEAP": "-Xmx512m",
        "KC_BOOTSTRAP_ADMIN_USERNAME": "root",
        "KC_BOOTSTRAP_ADMIN_PASSWORD": "for this test",
    }
    with log.open("wb") as said:
        process = subprocess.Popen(
            [
                "bash", str(home / "bin" / "kc.sh"), "start-dev", "--db", "dev-mem", "--http-host", "127.0.0.1",
                "--http-port", str(own), "--import-realm",
            ],
            env=environment, stdout=said, stderr=said, start_new_session=True,
        )  # fmt: skip
    found = Keycloak(f"http://127.0.0.1:{own}")
    try:
        wait_for(f"{found.issuer}/.well-known/openid-configuration", process, log)
        yield found
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


@pytest.fixture(scope="module")
def wetread(keycloak: Keycloak, port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    folder = tmp_path_factory.mktemp("wetread")
    config = folder / "wetread.toml"
    config.write_text(CONFIGURATION.format(port=port, issuer=keycloak.issuer))
    server = Server(config, folder / "data", {"http": port}, arguments=("--roles", "http"))
    server.start()
    assert server.process is not None
    try:
        wait_for(f"{server.url}/readyz", server.process, folder / "server.log")
        yield Hospital(server, peers.Heard(), 9)
    finally:
        server.stop()


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.25)
    raise TimeoutError(log.read_text()[-3000:])


@pytest.fixture
def browser(wetread: Hospital) -> Iterator[httpx.Client]:
    with new_browser(wetread) as browser:
        yield browser


class LoopbackIsSecure(httpx.HTTPTransport):
    """Browsers send a cookie that is for https only to loopback, too; httpx does not. Keycloak's are such."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = super().handle_request(request)
        kept = [(name, value.replace(";Secure", "")) for name, value in answer.headers.multi_items()]
        answer.headers = httpx.Headers(kept)
        return answer


def new_browser(wetread: Hospital) -> httpx.Client:
    return httpx.Client(base_url=wetread.server.url, follow_redirects=True, timeout=30, transport=LoopbackIsSecure())


def to_keycloak(browser: httpx.Client, goal: str = "/worklist") -> httpx.Response:
    """By the button of our own page."""
    page = browser.get("/login", params={"next": goal})
    [button] = re.findall(r'href="(/login/provider/keycloak[^"]*)"', page.text)
    return browser.get(html.unescape(button))


def password_given(browser: httpx.Client, page: httpx.Response, name: str) -> httpx.Response:
    """The person fills in Keycloak's form: where its redirect then leads, not yet followed."""
    [action] = re.findall(r'<form[^>]*id="kc-form-login"[^>]*action="([^"]+)"', page.text)
    form = {"username": name, "password": f"a password of {name}", "credentialId": ""}
    return browser.post(html.unescape(action), data=form, follow_redirects=False)


def signed_in(browser: httpx.Client, name: str, goal: str = "/worklist") -> httpx.Response:
    answer = password_given(browser, to_keycloak(browser, goal), name)
    assert answer.status_code == 302
    return browser.get(answer.headers["location"])


def logins(wetread: Hospital, subtype: str = "110122") -> list[dict[str, Any]]:
    with wetread.client(scope="system/AuditEvent.rs", roles=("auditor",)) as client:
        found = client.get("/fhir/AuditEvent", params={"subtype": subtype, "_count": "50"}).json()
    return [entry["resource"] for entry in found.get("entry", [])]


def test_a_radiologist_comes_in_by_the_group_and_the_login_is_on_record(
    wetread: Hospital, keycloak: Keycloak, browser: httpx.Client
) -> None:
    page = signed_in(browser, "rae", "/worklist?from=keycloak")
    assert (page.status_code, str(page.url)) == (200, f"{wetread.server.url}/worklist?from=keycloak")
    assert "Rae Reader" in page.text
    told = json.dumps(logins(wetread))
    assert f"{keycloak.issuer}#" in told
    assert "radiologist" in told


def test_who_is_only_in_other_groups_stays_out(wetread: Hospital, browser: httpx.Client) -> None:
    page = signed_in(browser, "cas")
    assert page.status_code == 403
    assert "in no group" in page.text
    assert "wetread_session" not in browser.cookies
    assert any(event["outcome"] == "4" for event in logins(wetread))


def test_an_answer_of_keycloak_counts_once_and_in_one_browser(wetread: Hospital, browser: httpx.Client) -> None:
    answer = password_given(browser, to_keycloak(browser), "rae").headers["location"]
    assert parse_qs(urlsplit(answer).query)["iss"]
    with new_browser(wetread) as another:
        assert another.get(answer).status_code == 401
    assert browser.get(answer).status_code == 401
    assert "wetread_session" not in browser.cookies


def test_signing_out_here_signs_out_there(wetread: Hospital, browser: httpx.Client) -> None:
    page = signed_in(browser, "rae")
    assert str(to_keycloak(browser).url) == f"{wetread.server.url}/worklist"  # Keycloak remembers the person
    page = browser.get("/worklist")
    token = re.findall(r'name="form_token" value="([^"]+)"', page.text)[0]
    leaving = browser.post("/logout", data={"form_token": token})
    assert str(leaving.url) == f"{wetread.server.url}/logout/provider"
    after = browser.get(leaving.headers["refresh"].removeprefix("0; url="))
    assert str(after.url) == f"{wetread.server.url}/login"
    assert 'id="kc-form-login"' in to_keycloak(browser).text


def test_who_is_signed_out_there_is_signed_out_here(
    wetread: Hospital, keycloak: Keycloak, browser: httpx.Client
) -> None:
    """Behind the browser's back (OpenID Connect Back-Channel Logout 1.0): one login by its session, then every one."""
    with new_browser(wetread) as elsewhere, keycloak.admin() as admin:
        [rae] = admin.get("users", params={"username": "rae"}).json()

        def sessions() -> set[str]:
            return {session["id"] for session in admin.get(f"users/{rae['id']}/sessions").json()}

        admin.post(f"users/{rae['id']}/logout")  # what others have left: keycloak#32124
        signed_in(browser, "rae")
        before = sessions()
        signed_in(elsewhere, "rae")
        [second] = sessions() - before
        assert admin.delete(f"sessions/{second}").status_code == 204
        assert ends_up(elsewhere) == "/login"
        assert browser.get("/worklist").url.path == "/worklist"
        assert admin.post(f"users/{rae['id']}/logout").status_code == 204
        assert ends_up(browser) == "/login"
    told = [event for event in logins(wetread, "110123") if "back-channel" in json.dumps(event)]
    assert len(told) >= 2
    assert all(event["outcome"] == "0" for event in told)


def ends_up(browser: httpx.Client) -> str:
    """Where the person is who asks for the worklist, once Keycloak's call has come."""
    for _ in range(50):
        if (path := str(browser.get("/worklist").url.path)) != "/worklist":
            return path
        time.sleep(0.1)
    return "/worklist"


def test_who_leaves_the_group_loses_the_role_and_the_open_session(
    wetread: Hospital, keycloak: Keycloak, browser: httpx.Client
) -> None:
    signed_in(browser, "rae")
    with keycloak.admin() as admin:
        [rae] = admin.get("users", params={"username": "rae"}).json()
        [group] = [group for group in admin.get("groups").json() if group["name"] == "radiology"]
        assert admin.delete(f"users/{rae['id']}/groups/{group['id']}").status_code == 204
        with new_browser(wetread) as elsewhere:
            assert signed_in(elsewhere, "rae").status_code == 403
        assert browser.get("/worklist").url.path == "/login"
        assert admin.put(f"users/{rae['id']}/groups/{group['id']}").status_code == 204
    assert to_keycloak(browser).url.path == "/worklist"  # Keycloak remembers the person


def test_the_client_must_prove_itself_with_pkce_and_its_secret(keycloak: Keycloak, wetread: Hospital) -> None:
    """That the realm really asks for both, so that the logins above have shown both."""
    query = {"client_id": "wetread", "response_type": "code", "scope": "openid", "redirect_uri": "http://x.example/"}
    with httpx.Client() as client:
        refused = client.get(f"{keycloak.issuer}/protocol/openid-connect/auth", params=query)
        assert refused.status_code == 400
        callback = f"{wetread.server.url}/login/provider/keycloak/callback"
        refused = client.get(
            f"{keycloak.issuer}/protocol/openid-connect/auth", params={**query, "redirect_uri": callback}
        )
        assert "code_challenge_method" in refused.headers["location"]
        form = {"grant_type": "authorization_code", "client_id": "wetread", "code": "x", "redirect_uri": callback}
        assert client.post(f"{keycloak.issuer}/protocol/openid-connect/token", data=form).status_code == 401
