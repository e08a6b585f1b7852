"""From the last C-STORE response to the alert and the notification, less the quiet period and the bare model time."""

from __future__ import annotations

import asyncio
import json
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import httpx
import psycopg
from pydicom.uid import generate_uid

from benchmarks.stand import DEMO, Running, free_port, table, wetread
from wetread.access.tokens import Tokens, signing_key
from wetread.app import TOKEN_AUDIENCE
from wetread.demo.studies import Case, instances, load_cases
from wetread.outbound import dicom, mllp
from wetread.store import embedded

_QUIET_S = 1.0
_ROUTING = """\
rules:
  - name: head CT
    models: [headct-bleed-synthetic]
    when: {modality: CT}
"""


@dataclass
class Arrivals:
    """When something that names an accession number or a study came, by that name."""

    alerts: dict[str, float] = field(default_factory=dict)
    notifications: list[tuple[float, bytes]] = field(default_factory=list)


@contextmanager
def _alert_receiver(arrivals: Arrivals) -> Iterator[int]:
    """A bare MLLP receiver in a thread: its own cost must not be in the figure."""
    port = free_port()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not reader.at_eof():
            try:
                frame = await reader.readuntil(b"\x1c\r")
            except asyncio.IncompleteReadError:
                break
            at = time.time()
            control = frame.split(b"|")[9]
            accession = frame.split(b"OBR|", 1)[1].split(b"|")[17].split(b"^")[0].decode()
            arrivals.alerts.setdefault(accession, at)
            writer.write(b"\x0bMSH|^~\\&|A|A|W|W|20260101||ACK|1|P|2.5.1\rMSA|AA|" + control + b"\r\x1c\r")

    async def listen() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", port, limit=1 << 20)
        await server.serve_forever()

    threading.Thread(target=lambda: asyncio.run(listen()), daemon=True).start()
    yield port


@contextmanager
def _subscriber(arrivals: Arrivals) -> Iterator[int]:
    class Endpoint(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            arrivals.notifications.append((time.time(), body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def _study(case: Case, number: int) -> tuple[Case, bytes, list[bytes]]:
    uid, patient = generate_uid(prefix="2.25."), f"{number:06}"
    fresh = replace(
        case,
        patient=replace(case.patient, id=f"DEMO-{patient}"),
        examination=replace(case.examination, accession_number=f"DEMO-A{patient}", study_instance_uid=uid),
    )
    message = (DEMO / str(case.order)).read_bytes().replace(case.examination.study_instance_uid.encode(), uid.encode())
    for letter in ("", "P", "F", "A", "V"):
        message = message.replace(f"-{letter}1004".encode(), f"-{letter}{patient}".encode())
    message = message.replace(b"DEMO0003", f"E{patient}".encode())
    files = []
    for dataset in instances(fresh, DEMO):
        buffer = BytesIO()
        dataset.save_as(buffer, enforce_file_format=True)
        files.append(buffer.getvalue())
    return fresh, message, files


def _play(running: Running, case: Case, numbers: range, every_s: float) -> dict[str, float]:
    """Sends order and study of each number; gives the time of the last C-STORE response by accession number."""
    sent: dict[str, float] = {}
    for number in numbers:
        started = time.time()
        fresh, message, files = _study(case, number)
        asyncio.run(mllp.send("127.0.0.1", running.ports["mllp"], message, timeout_s=10))
        dicom.send(
            files, host="127.0.0.1", port=running.ports["dicom"], called_ae="WETREAD", calling_ae="CT", timeout_s=30
        )
        sent[fresh.examination.accession_number] = time.time()
        time.sleep(max(0.0, every_s - (time.time() - started)))
    return sent


def _overheads(sent: dict[str, float], arrivals: Arrivals, url: str) -> tuple[list[float], list[float]]:
    """Milliseconds to the alert and to the Observation's notification, quiet period and model time taken off."""
    deadline = time.time() + 120
    while len(set(sent) & set(arrivals.alerts)) < len(sent) and time.time() < deadline:
        time.sleep(0.1)
    time.sleep(1)
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            """SELECT s.accession_number, s.id, (r.reading->>'duration_ms')::float FROM study s
               JOIN run r USING (study_instance_uid)"""
        ).fetchall()
    notified: dict[str, float] = {}
    for at, body in arrivals.notifications:
        for entry in json.loads(body)["entry"]:
            resource = entry.get("resource", {})
            if resource.get("resourceType") == "Observation":
                notified.setdefault(resource["partOf"][0]["reference"].split("/")[1], at)
    alerts, notifications = [], []
    for accession, study_id, model_ms in rows:
        if accession in sent:
            base = sent[accession] + _QUIET_S
            alerts.append((arrivals.alerts[accession] - base) * 1000 - model_ms)
            notifications.append((notified[study_id] - base) * 1000 - model_ms)
    return alerts, notifications


def run(folder: Path, *, quick: bool) -> str:
    idle, busy = (2, 2) if quick else (15, 40)
    arrivals = Arrivals()
    overlay = folder / "overlay"
    overlay.mkdir()
    (overlay / "routing.yaml").write_text(_ROUTING)
    case = load_cases(DEMO)["head-ct-phantom-bleed"]
    with _alert_receiver(arrivals) as alert_port, _subscriber(arrivals) as subscriber_port:
        configuration = (
            "[[outbound.destinations]]\n"
            f'name = "alerts"\nkind = "mllp"\nhost = "127.0.0.1"\nport = {alert_port}\nsends = ["alert"]\n'
        )
        place = folder / "server"
        place.mkdir()
        with wetread(place, configuration, quiet_s=_QUIET_S, overlay=overlay) as running:
            _subscribe(running, subscriber_port)
            with embedded.borrowed(running.data_dir) as url:
                _overheads(_play(running, case, range(1, 3), 6.0), arrivals, url)
                rows = []
                for name, numbers, every_s in (
                    ("idle (one every six seconds)", range(100, 100 + idle), 6.0),
                    ("one study every two seconds", range(1000, 1000 + busy), 2.0),
                ):
                    alerts, notifications = _overheads(_play(running, case, numbers, every_s), arrivals, url)
                    rows += [[name, "ORU alert", *_figures(alerts)], [name, "notification", *_figures(notifications)]]
    notes = (
        "A head CT phantom of 40 slices with its STAT order; the clock starts at the last C-STORE response and stops "
        "when the receiver has the whole message. Quiet period (1 s) and the model's own time (preprocessing, "
        "inference, interpretation) are taken off. Two studies before the first figure warm the processes."
    )
    return table("End to end", ("load", "to", "median ms", "p95 ms", "n"), rows, notes)


def _subscribe(running: Running, port: int) -> None:
    tokens = Tokens(signing_key(running.data_dir / "token.key"), TOKEN_AUDIENCE)
    token = tokens.issue("bench", "system/*.cruds", ("administrator",), timedelta(hours=1)).token
    backport = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-payload-content"
    subscription = {
        "resourceType": "Subscription",
        "status": "requested",
        "reason": "benchmark",
        "criteria": "https://wetread.org/fhir/SubscriptionTopic/ai-observation",
        "channel": {
            "type": "rest-hook",
            "endpoint": f"http://127.0.0.1:{port}/",
            "payload": "application/fhir+json",
            "_payload": {"extension": [{"url": backport, "valueCode": "full-resource"}]},
        },
    }
    url = f"http://127.0.0.1:{running.ports['http']}/fhir/Subscription"
    httpx.post(url, json=subscription, headers={"Authorization": f"Bearer {token}"}).raise_for_status()


def _figures(values: list[float]) -> tuple[str, str, int]:
    ordered = sorted(values)
    p95 = ordered[min(len(ordered) - 1, round(0.95 * len(ordered)))]
    return f"{statistics.median(values):.0f}", f"{p95:.0f}", len(values)
