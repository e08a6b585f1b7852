"""SMART apps that are not ours are launched at a running server: fhirclient.js in Chromium, the SMART Python client."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.webdriver import WebDriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from tests.browser.conftest import FLAGS
from tests.flow.conftest import Hospital, running_hospital
from tests.smart_visitor import BACK, PASSWORD, Person, add_client, add_person

from conformance import supply
from wetread.demo import peers

pytestmark = pytest.mark.conformance

SCOPE = "openid fhirUser launch launch/patient offline_access online_access patient/*.rs user/*.rs"
_WAIT_S = 60


@dataclass(frozen=True)
class Ward:
    hospital: Hospital
    patient: str
    encounter: str
    observations: list[str]
    practitioner: str

    @property
    def fhir(self) -> str:
        return f"{self.hospital.server.url}/fhir"

    def launch(self, client_id: str) -> dict[str, str]:
        """As an EHR begins it."""
        with self.hospital.client(scope="user/*.rs", roles=("radiologist",)) as ehr:
            wish = {"client_id": client_id, "patient": self.patient, "encounter": self.encounter}
            begun = ehr.post("/oauth/launch", json=wish)
            assert begun.status_code == 201, begun.text
            answer: dict[str, str] = begun.json()
            return answer


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    ports = {"archive": 9, "subscriber": 9, "alerts": 9}
    with running_hospital(tmp_path_factory.mktemp("apps"), peers.Heard(), ports, "demo") as hospital:
        with hospital.client() as client:

            def made(resource_type: str, **content: Any) -> str:
                answer = client.post(f"/fhir/{resource_type}", json={"resourceType": resource_type, **content})
                assert answer.status_code == 201, answer.text
                return str(answer.json()["id"])

            patient, other = (made("Patient", name=[{"family": "Appleby", "given": [name]}]) for name in ("Ada", "Bo"))
            subject = {"reference": f"Patient/{patient}"}
            encounter = made("Encounter", status="finished", subject=subject, **{"class": {"code": "AMB"}})
            code = {"coding": [{"system": "http://loinc.org", "code": "36643-5"}]}
            ids = [made("Observation", status="final", code=code, subject=subject) for _ in range(3)]
            made("Observation", status="final", code=code, subject={"reference": f"Patient/{other}"})
            practitioner = made("Practitioner", name=[{"family": "Example"}])
        add_person(hospital, "ana", fhir_user=f"Practitioner/{practitioner}")
        yield Ward(hospital, patient, encounter, sorted(ids), practitioner)


class _Pages(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def pages(ward: Ward, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the app of fhirclient.js is served, an origin of its own."""
    folder = tmp_path_factory.mktemp("app") / "pages"
    shutil.copytree(supply.PINS / "smart-app", folder)
    library = supply.npm_peers() / "node_modules" / "fhirclient" / "build" / "fhir-client.js"
    shutil.copy(library, folder)
    serving = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Pages, directory=str(folder)))
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    origin = f"http://127.0.0.1:{serving.server_port}"
    places = {"redirect_uris": [f"{origin}/app.html"], "launch_uri": f"{origin}/launch.html"}
    add_client(ward.hospital, "fhirclient-js", "public", SCOPE, **places)
    yield origin
    serving.shutdown()
    serving.server_close()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[WebDriver]:
    options = webdriver.ChromeOptions()
    options.binary_location = supply.program("chromium", "chromium")
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    driver = webdriver.ChromeService(supply.program("chromedriver", "chromium-driver"))
    started = webdriver.Chrome(options=options, service=driver)
    started.implicitly_wait(_WAIT_S)
    yield started
    started.quit()


def signs_in(browser: WebDriver) -> None:
    form = "form[action='/login']"
    browser.find_element(By.CSS_SELECTOR, f"{form} #name").send_keys("ana")
    browser.find_element(By.CSS_SELECTOR, f"{form} #password").send_keys(PASSWORD)
    browser.find_element(By.CSS_SELECTOR, f"{form} button").click()


def chooses(browser: WebDriver, patient: str) -> None:
    form = "form[action='/oauth/authorize/patient']"
    browser.find_element(By.CSS_SELECTOR, f"{form} #name").send_keys("appleby")
    browser.find_element(By.CSS_SELECTOR, f"{form} button").click()
    row = browser.find_element(By.XPATH, f"//tr[.//input[@value='{patient}']]")
    assert "Ada" in row.text
    row.find_element(By.TAG_NAME, "button").click()


def allows(browser: WebDriver) -> dict[str, Any]:
    """What the app then shows."""
    browser.find_element(By.CSS_SELECTOR, "button[value='allow']").click()
    shown = WebDriverWait(browser, _WAIT_S).until(lambda seen: seen.find_element(By.ID, "told").text)
    told: dict[str, Any] = json.loads(shown)
    assert "error" not in told, told
    return told


def assert_it_saw_ada(told: dict[str, Any], ward: Ward) -> None:
    assert told["context"]["patient"] == ward.patient
    for patient in (told["patient"], told["again"]):
        assert (patient["id"], patient["name"][0]["given"]) == (ward.patient, ["Ada"])
    assert sorted(told["observations"]) == ward.observations
    assert told["user"]["id"] == ward.practitioner
    assert (told["idToken"]["sub"], told["idToken"]["aud"]) == ("ana", "fhirclient-js")
    assert told["isNew"], "the client refreshed its token"


def test_fhirclient_js_is_launched_by_a_person_who_chooses_a_patient(
    ward: Ward, pages: str, browser: WebDriver
) -> None:
    browser.get(f"{pages}/launch.html?{urlencode({'iss': ward.fhir})}")
    signs_in(browser)
    chooses(browser, ward.patient)
    told = allows(browser)
    assert_it_saw_ada(told, ward)
    assert told["encounter"] is None


def test_fhirclient_js_is_launched_by_an_ehr_with_its_patient_and_visit(
    ward: Ward, pages: str, browser: WebDriver
) -> None:
    begun = ward.launch("fhirclient-js")
    assert begun["launch_url"].startswith(f"{pages}/launch.html?")
    browser.get(begun["launch_url"])
    signs_in(browser)
    told = allows(browser)
    assert_it_saw_ada(told, ward)
    assert told["encounter"] == ward.encounter
    assert "online_access" in told["context"]["scope"].split()


def test_fhirclient_js_asks_in_a_window_of_its_own(ward: Ward, pages: str, browser: WebDriver) -> None:
    browser.get(f"{pages}/launch.html?{urlencode({'iss': ward.fhir, 'target': 'popup'})}")
    front = browser.current_window_handle
    WebDriverWait(browser, _WAIT_S).until(lambda seen: len(seen.window_handles) == 2)
    browser.switch_to.window(next(handle for handle in browser.window_handles if handle != front))
    signs_in(browser)
    chooses(browser, ward.patient)
    browser.find_element(By.CSS_SELECTOR, "button[value='allow']").click()
    browser.switch_to.window(front)
    shown = WebDriverWait(browser, _WAIT_S).until(lambda seen: seen.find_element(By.ID, "told").text)
    assert_it_saw_ada(json.loads(shown), ward)
    assert len(browser.window_handles) == 1


@pytest.mark.parametrize("kind", ["public", "symmetric"])
@pytest.mark.parametrize("start", ["by a person", "by an EHR"])
def test_smart_python_client(ward: Ward, kind: str, start: str) -> None:
    client_id = f"fhirclient-py-{kind}-{start.split()[-1].lower()}"
    secret = add_client(ward.hospital, client_id, kind, SCOPE, redirect_uris=[BACK])
    launch = ward.launch(client_id)["launch"] if start == "by an EHR" else ""
    scope = "openid offline_access patient/Patient.rs patient/Observation.rs"
    scope = f"{scope} launch/patient" if not launch else scope
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("WETREAD_", "PYTHON"))}
    told, said = _launched(
        [sys.executable, "smart_client_launch.py", ward.fhir, client_id, secret, BACK, scope, launch],
        {**environment, "PYTHONPATH": str(supply.fhir_clients()), "PYTHONWARNINGS": "ignore"},
        Person(ward.hospital.server.url, "ana"),
        ward,
    )
    assert told, said
    assert told["context"]["patient"] == told["patient"]["id"] == told["again"]["id"] == ward.patient
    assert told["name"] == "Ada Appleby"
    assert told["observations"] == ward.observations
    assert told["is_new"]


def _launched(
    command: list[str], environment: dict[str, str], person: Person, ward: Ward
) -> tuple[dict[str, Any], str]:
    """What the app prints at its end; and what it said where it ended otherwise."""
    with subprocess.Popen(
        command,
        cwd=supply.PINS,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as app:
        assert app.stdout is not None
        address = app.stdout.readline().strip()
        came_back = person.answers(address, patient=ward.patient, family="Appleby") if address else {}
        printed, said = app.communicate(f"{BACK}?{urlencode(came_back)}\n", timeout=_WAIT_S)
    return (json.loads(printed) if app.returncode == 0 else {}), said[-2000:]
