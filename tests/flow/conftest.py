"""A running Wetread, started as a site starts it, with a hospital of real peers around it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import psutil
import pydicom
import pytest

from tests.ports import free_port
from wetread.access.tokens import Tokens, signing_key
from wetread.app import TOKEN_AUDIENCE
from wetread.demo import peers
from wetread.demo.studies import Case, instances, load_cases
from wetread.outbound import dicom, mllp

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "demo"


@dataclass
class Server:
    """One process group of `wetread serve`. `kill` is SIGKILL to all of it at once; PostgreSQL survives that."""

    config: Path
    data_dir: Path
    ports: Mapping[str, int]
    environment: Mapping[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports['http']}"

    @property
    def _where(self) -> tuple[str, ...]:
        return ("--config", str(self.config), "--data-dir", str(self.data_dir))

    def start(self) -> None:
        log = (self.config.parent / "server.log").open("ab")
        environment = {k: v for k, v in os.environ.items() if not k.startswith("WETREAD_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "wetread", "serve", *self._where, *self.arguments],
            env={**environment, **self.environment},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        log.close()

    def wait_ready(self, timeout_s: float = 90) -> None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            assert self.process is not None
            assert self.process.poll() is None, (self.config.parent / "server.log").read_text()[-3000:]
            try:
                ready = httpx.get(f"{self.url}/readyz", timeout=5).status_code == 200
                for port in self.ports.values():
                    socket.create_connection(("127.0.0.1", port), 1).close()
                if ready:
                    return
            except (httpx.TransportError, OSError):
                time.sleep(0.1)
        raise TimeoutError((self.config.parent / "server.log").read_text()[-3000:])

    def processes(self) -> Mapping[int, str]:
        """Those that serve roles: which, by process."""
        assert self.process is not None
        found = {}
        for pid in psutil.pids():
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                title = " ".join(psutil.Process(pid).cmdline())
                if title.startswith("wetread: ") and os.getsid(pid) == self.process.pid:
                    found[pid] = title.removeprefix("wetread: ").strip()
        return found

    def kill(self) -> None:
        assert self.process is not None
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)

    def restart(self) -> None:
        self.stop()
        self.start()
        self.wait_ready()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.kill()
                raise


@dataclass
class Hospital:
    """The server and what has reached the peers; and the acts of those who send and ask."""

    server: Server
    heard: peers.Heard
    subscriber_port: int

    def token(
        self,
        scope: str = "system/*.cruds",
        roles: tuple[str, ...] = ("administrator",),
        lifetime: timedelta = timedelta(hours=1),
    ) -> str:
        tokens = Tokens(signing_key(self.server.data_dir / "token.key"), TOKEN_AUDIENCE)
        return tokens.issue("operator:test", scope, roles, lifetime).token

    def client(self, **kwargs: Any) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.token(**kwargs)}"}
        return httpx.Client(base_url=self.server.url, headers=headers, timeout=30)

    def order(self, message: bytes) -> mllp.Ack:
        return asyncio.run(mllp.send("127.0.0.1", self.server.ports["mllp"], message, timeout_s=60))

    def store(self, datasets: list[pydicom.Dataset]) -> None:
        dicom.send(
            [part10(dataset) for dataset in datasets],
            host="127.0.0.1",
            port=self.server.ports["dicom"],
            called_ae="WETREAD",
            calling_ae="MODALITY",
            timeout_s=60,
        )

    def command(self, *arguments: str, typed: str = "") -> str:
        """What a `wetread` command beside the running server prints, given what is typed into it. Fails where it
        fails."""
        where = ("--config", str(self.server.config), "--data-dir", str(self.server.data_dir))
        environment = {k: v for k, v in os.environ.items() if not k.startswith("WETREAD_")}
        done = subprocess.run(
            [sys.executable, "-m", "wetread", *arguments, *where],
            env=environment,
            input=typed,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def task_when(self, accession_number: str, *status: str) -> dict[str, Any]:
        """The Task of an order as soon as it has one of these states."""

        def ready() -> dict[str, Any] | None:
            task = self.task_of(accession_number)
            return task if task.get("status") in status else None

        found: dict[str, Any] = until(f"a Task that is {' or '.join(status)}", ready)
        return found

    def study_when(self, study_instance_uid: str, state: str = "read", revision: int = 1) -> dict[str, Any]:
        """The study as soon as this revision has come to this state."""

        def ready() -> dict[str, Any] | None:
            study = self.study(study_instance_uid)
            return study if (study.get("state"), study.get("revision")) == (state, revision) else None

        found: dict[str, Any] = until(f"revision {revision} of the study to be {state}", ready)
        return found

    def observations_of(self, study: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The Observations of a study that `study_when` gave."""
        return self.search("Observation", **{"part-of": f"ImagingStudy/{study['id']}"})

    def search(self, resource_type: str, **params: str) -> list[dict[str, Any]]:
        with self.client() as client:
            answer = client.get(f"/fhir/{resource_type}", params={**params, "_count": "500"})
            assert answer.status_code == 200, answer.text
            return [entry["resource"] for entry in answer.json().get("entry", ())]

    def study(self, study_instance_uid: str) -> dict[str, Any]:
        """The study as staff see it, with its released runs; empty while nobody knows of it."""
        with self.client() as client:
            for row in client.get("/api/studies", params={"limit": 1000}).json():
                if row["study_instance_uid"] == study_instance_uid:
                    found: dict[str, Any] = client.get(f"/api/studies/{row['id']}").json()
                    return found
        return {}

    def task_of(self, accession_number: str) -> dict[str, Any]:
        requests = self.search("ServiceRequest", identifier=accession_number)
        tasks = self.search("Task", **{"based-on": f"ServiceRequest/{requests[0]['id']}"}) if requests else []
        return tasks[0] if tasks else {}

    def objects(self, modality: str, study_instance_uid: str) -> list[pydicom.Dataset]:
        """What the archive has of a study, by modality."""
        found = [pydicom.dcmread(BytesIO(content)) for content in list(self.heard.objects.values())]
        return [d for d in found if (d.Modality, d.StudyInstanceUID) == (modality, study_instance_uid)]

    def alerts(self, accession_number: str) -> list[bytes]:
        return [alert for alert in self.heard.alerts if accession_number.encode() in alert]


def until(what: str, ready: Callable[[], Any], timeout_s: float = 60) -> Any:
    """What `ready` gives as soon as it is true. Fails by name after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        value = ready()
        if value:
            return value
        time.sleep(0.1)
    raise AssertionError(f"waited {timeout_s:.0f} s for {what}")


def part10(dataset: pydicom.Dataset) -> bytes:
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def cases() -> dict[str, Case]:
    return load_cases(DEMO)


@dataclass(frozen=True)
class Story:
    """One patient's order and images, made from a case of the demonstration under fresh numbers."""

    case: Case
    message: bytes
    datasets: list[pydicom.Dataset]

    @property
    def accession_number(self) -> str:
        return self.case.examination.accession_number

    @property
    def study_instance_uid(self) -> str:
        return self.case.examination.study_instance_uid


_serial = iter(range(1, 10_000))


@pytest.fixture
def story(cases: dict[str, Case]) -> Callable[[str], Story]:
    """Makes a story from a case: its own patient, accession number, study UID and message."""

    def make(name: str) -> Story:
        case, serial = cases[name], f"{next(_serial):04}"
        uid = f"{case.examination.study_instance_uid[:40]}.{int(serial)}.{os.getpid()}"
        old, number = case.patient.id.removeprefix("DEMO-"), f"7{serial}"
        fresh = replace(
            case,
            patient=replace(case.patient, id=f"DEMO-{number}"),
            examination=replace(case.examination, accession_number=f"DEMO-A{number}", study_instance_uid=uid),
        )
        message = (DEMO / str(case.order)).read_bytes() if case.order else b""
        message = message.replace(case.examination.study_instance_uid.encode(), uid.encode())
        message = message.replace(b"-" + old.encode(), b"-" + number.encode())
        for letter in (b"P", b"F", b"A", b"V"):
            message = message.replace(b"-" + letter + old.encode(), b"-" + letter + number.encode())
        message = message.replace(b"|DEMO000", b"|T" + number.encode() + b"0")
        return Story(fresh, message, instances(fresh, DEMO))

    return make


@pytest.fixture(scope="session")
def heard() -> peers.Heard:
    return peers.Heard()


@pytest.fixture(scope="session")
def peer_ports(heard: peers.Heard) -> Iterator[dict[str, int]]:
    """Archive and subscriber run in threads, the alert receiver in a loop of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    receiver = asyncio.run_coroutine_threadsafe(peers.alert_receiver(heard), loop).result(10)
    with ExitStack() as stack:
        yield {
            "archive": stack.enter_context(peers.archive(heard)),
            "subscriber": stack.enter_context(peers.subscriber(heard)),
            "alerts": receiver.port,
        }
    asyncio.run_coroutine_threadsafe(receiver.close(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(5)
    loop.close()


ROUTING = """\
rules:
  - name: chest film of a child
    models: [cxr-pneumonia-peds]
    when:
      modality: [CR, DX]
      body_part: {matches: chest}
      patient_age_years: {at_most: 18}
  - name: head CT without contrast
    models: [headct-bleed-synthetic]
    when: {modality: CT, body_part: {matches: head}, instance_count: {at_least: 12}}
  - name: brain volume
    models: [brain-extract-mindgrab]
    when: {modality: CT, study_description: {matches: brain volume}}
"""
"""The shipped rules, but that the brain model, which takes half a minute, reads only where a study asks for it."""


def overlay(folder: Path) -> Path:
    """A site's own files, with the routing of these tests."""
    made = folder / "overlay"
    made.mkdir()
    (made / "routing.yaml").write_text(ROUTING)
    return made


def configuration(
    ports: Mapping[str, int],
    peer_ports: Mapping[str, int],
    *,
    quiet_s: float = 1.0,
    deadline_s: float = 3600.0,
    profile: str = "demo",
    overlay_dir: Path | None = None,
) -> str:
    site = "" if overlay_dir is None else f'overlay_dir = "{overlay_dir}"'
    return f"""\
profile = "{profile}"
{site}
[http]
port = {ports["http"]}
[http.limits]
anonymous_per_minute = 0
refused_per_minute = 0
guesses_per_minute = 0
guesses_per_name = 0
[mllp]
port = {ports["mllp"]}
[dicom]
port = {ports["dicom"]}
[study]
quiet_s = {quiet_s}
deadline_s = {deadline_s}
[models.spacing_mm]
brain-extract-mindgrab = 2.0
[[outbound.destinations]]
name = "archive"
kind = "dicom"
host = "127.0.0.1"
port = {peer_ports["archive"]}
ae_title = "ARCHIVE"
sends = ["sr", "seg", "pr"]
[[outbound.destinations]]
name = "alerts"
kind = "mllp"
host = "127.0.0.1"
port = {peer_ports["alerts"]}
application = "ALERTS"
facility = "TEST"
sends = ["alert"]
"""


@pytest.fixture(scope="session")
def hospital(
    tmp_path_factory: pytest.TempPathFactory, heard: peers.Heard, peer_ports: dict[str, int]
) -> Iterator[Hospital]:
    """One server in the demo profile for all tests; each takes fresh stories."""
    with running_hospital(tmp_path_factory.mktemp("hospital"), heard, peer_ports, "demo") as running:
        yield running


@pytest.fixture(scope="session")
def site(
    tmp_path_factory: pytest.TempPathFactory, heard: peers.Heard, peer_ports: dict[str, int]
) -> Iterator[Hospital]:
    """A server in the production profile, as it comes; tests may change its overlay and restart it."""
    with running_hospital(tmp_path_factory.mktemp("site"), heard, peer_ports, "production") as running:
        yield running


@contextmanager
def running_hospital(
    folder: Path, heard: peers.Heard, peer_ports: Mapping[str, int], profile: str, **waits_s: float
) -> Iterator[Hospital]:
    ports = {name: free_port() for name in ("http", "mllp", "dicom")}
    config = folder / "wetread.toml"
    config.write_text(configuration(ports, peer_ports, overlay_dir=overlay(folder), profile=profile, **waits_s))
    server = Server(config, folder / "data", ports)
    server.start()
    try:
        server.wait_ready()
        yield Hospital(server, heard, peer_ports["subscriber"])
    finally:
        server.stop()
