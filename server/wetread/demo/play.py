"""The main job, played by real parts on real data: orders and studies go in, and every reader is told.

The server is a process of its own, started as a site would start it. The hospital around it are the peers of this
room. What came out is read through the server's own doors and left in the output folder.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pydicom
import tomli_w

from wetread.demo import peers
from wetread.demo.studies import Case, instances, load_cases
from wetread.errors import StoreUnavailable
from wetread.outbound import dicom, mllp

Say = Callable[[str], None]

_TOPICS = "https://wetread.org/fhir/SubscriptionTopic/"
_BACKPORT = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-"
_PREFERRED = {"http": 8080, "mllp": 2575, "dicom": 11112}
_READY_S = 120.0
_RESULT_S = 600.0


@dataclass(frozen=True)
class Stage:
    """Where everything is. `data` is the server's data directory; `site` are settings laid under those of the demo."""

    output: Path
    demo: Path
    data: Path
    ports: Mapping[str, int]
    site: Mapping[str, Any]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports['http']}"


def stage(output: Path, demo: Path, data: Path | None, site: Mapping[str, Any]) -> Stage:
    """A clean output folder, with the data in it where `data` names no other, and free ports: the usual ones where
    nobody has them."""
    if output.exists():
        shutil.rmtree(output)
    output.mkdir(parents=True)
    ports = {name: _free(port) for name, port in _PREFERRED.items()}
    return Stage(output, demo, data or output / "server", ports, site)


def _free(preferred: int) -> int:
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise StoreUnavailable("no port is free on loopback")


async def play(on: Stage, make_token: Callable[[Path], str], say: Say, *, keep: bool) -> None:
    """Plays all of it, and leaves the artefacts. With `keep` the server stays up until interrupted."""
    heard = peers.Heard()
    receiver = await peers.alert_receiver(heard)
    with ExitStack() as stack:
        archive_port = stack.enter_context(peers.archive(heard))
        subscriber_port = stack.enter_context(peers.subscriber(heard))
        config = _configuration(on, archive_port, receiver.port)
        say("Starting Wetread with its own PostgreSQL, the demo profile, on loopback ...")
        server = stack.enter_context(_server(on, config))
        async with httpx.AsyncClient(base_url=on.url, timeout=30) as plain:
            await _ready(plain, server, say)
        token = await asyncio.to_thread(make_token, config)
        headers = {"Authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(base_url=on.url, headers=headers, timeout=60) as client:
            say(f"It is up: {on.url}  MLLP {on.ports['mllp']}  DICOM {on.ports['dicom']} (AE WETREAD)\n")
            await _subscribe(client, subscriber_port, say)
            cases = [case for case in load_cases(on.demo).values() if case.order]
            await _send_orders(on, cases, say)
            await _send_studies(on, cases, say)
            await _wait_for_results(client, cases, heard, say)
            await _collect(on, client, cases, heard, say)
            if keep:
                await _stay(on, token, say)
    await receiver.close()


def _configuration(on: Stage, archive_port: int, alert_port: int) -> Path:
    archive = {"kind": "dicom", "port": archive_port, "ae_title": "ARCHIVE", "sends": ["sr", "seg", "pr"]}
    alerts = {"kind": "mllp", "port": alert_port, "application": "ALERTS", "facility": "DEMO", "sends": ["alert"]}
    ours: dict[str, Any] = {
        "profile": "demo",
        **{name: {"port": port} for name, port in on.ports.items()},
        "outbound": {
            "destinations": [
                {"name": name, "host": "127.0.0.1", **destination}
                for name, destination in (("archive", archive), ("alerts", alerts))
            ]
        },
    }
    file = on.output / "wetread.toml"
    laid_over = {
        key: {**on.site.get(key, {}), **value} if isinstance(value, dict) else value for key, value in ours.items()
    }
    file.write_text(tomli_w.dumps({**on.site, **laid_over}))
    return file


@contextmanager
def _server(on: Stage, config: Path) -> Iterator[subprocess.Popen[bytes]]:
    log = (on.output / "server.log").open("w")
    process = subprocess.Popen(  # noqa: S603  (ourselves)
        [sys.executable, "-m", "wetread", "serve", "--config", str(config), "--data-dir", str(on.data)],
        stdout=log,
        stderr=log,
        env={k: v for k, v in os.environ.items() if not k.startswith("WETREAD_")},
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)
        log.close()


async def _ready(client: httpx.AsyncClient, server: subprocess.Popen[bytes], say: Say) -> None:
    answered = False

    async def ask() -> None:
        nonlocal answered
        while not answered and server.poll() is None:
            try:
                answered = (await client.get("/readyz")).status_code == 200
            except httpx.TransportError:
                await asyncio.sleep(0.2)

    asking = asyncio.create_task(ask())
    try:
        await peers.until(
            "the server to be ready (its log: demo-output/server.log)",
            lambda: answered or server.poll() is not None,
            _READY_S,
            say,
        )
    finally:
        asking.cancel()
    if server.poll() is not None:
        raise StoreUnavailable("the server has ended instead of starting; its log, server.log, says why")


async def _subscribe(client: httpx.AsyncClient, port: int, say: Say) -> None:
    for topic, content in (("imagingstudy-available", "id-only"), ("ai-observation", "full-resource")):
        subscription = {
            "resourceType": "Subscription",
            "status": "requested",
            "reason": "demonstration",
            "criteria": _TOPICS + topic,
            "channel": {
                "type": "rest-hook",
                "endpoint": f"http://127.0.0.1:{port}/notifications",
                "payload": "application/fhir+json",
                "_payload": {"extension": [{"url": f"{_BACKPORT}payload-content", "valueCode": content}]},
            },
        }
        answer = await client.post("/fhir/Subscription", json=subscription)
        answer.raise_for_status()
        say(f"Subscribed to {topic} ({content}): {answer.headers['location']}")


async def _send_orders(on: Stage, cases: Sequence[Case], say: Say) -> None:
    say("")
    for case in cases:
        message = (on.demo / str(case.order)).read_bytes()
        ack = await mllp.send("127.0.0.1", on.ports["mllp"], message, timeout_s=30)
        say(f"Order {case.name:24} over MLLP   -> {ack.code}")


async def _send_studies(on: Stage, cases: Sequence[Case], say: Say) -> None:
    say("")
    for case in cases:
        files = [_part10(dataset) for dataset in instances(case, on.demo)]
        await asyncio.to_thread(
            dicom.send,
            files,
            host="127.0.0.1",
            port=on.ports["dicom"],
            called_ae="WETREAD",
            calling_ae="DEMO-MODALITY",
            timeout_s=60,
        )
        say(f"Study {case.name:24} by C-STORE  -> {len(files)} instances stored")


def _part10(dataset: pydicom.Dataset) -> bytes:
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


async def _wait_for_results(client: httpx.AsyncClient, cases: Sequence[Case], heard: peers.Heard, say: Say) -> None:
    """Every order's Task ends, and then the deliveries do."""
    say("\nThe models read (the brain model takes about half a minute on a small machine) ...")
    open_tasks = {case.name: case for case in cases}

    async def ask() -> None:
        while open_tasks:
            for name, case in list(open_tasks.items()):
                task = await _task(client, case)
                if task is not None and task["status"] in ("completed", "failed", "rejected"):
                    del open_tasks[name]
                    reason = task.get("statusReason", {}).get("text", "")
                    say(f"Task of {name:24} {task['status']} {reason}".rstrip())
            await asyncio.sleep(0.5)

    asking = asyncio.create_task(ask())
    await peers.until("the Tasks of " + ", ".join(open_tasks), lambda: asking.done() or not open_tasks, _RESULT_S, say)
    await asking
    await peers.until("the alert to arrive", lambda: bool(heard.alerts), 60, say)
    await peers.until("SR and SEG to arrive in the archive", lambda: _has(heard, "SR") and _has(heard, "SEG"), 60, say)
    await peers.until(
        "the notifications", lambda: any(b'"Observation"' in body for body in heard.notifications), 60, say
    )


async def _task(client: httpx.AsyncClient, case: Case) -> dict[str, Any] | None:
    requests = await _search(client, "ServiceRequest", identifier=f"|{case.examination.accession_number}") or (
        await _search(client, "ServiceRequest", identifier=case.examination.accession_number)
    )
    if not requests:
        return None
    tasks = await _search(client, "Task", **{"based-on": f"ServiceRequest/{requests[0]['id']}"})
    return tasks[0] if tasks else None


async def _search(client: httpx.AsyncClient, resource_type: str, **params: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    answer = await client.get(f"/fhir/{resource_type}", params={**params, "_count": "200"})
    while True:
        bundle = answer.raise_for_status().json()
        found += [entry["resource"] for entry in bundle.get("entry", ())]
        following = [link["url"] for link in bundle.get("link", ()) if link["relation"] == "next"]
        if not following:
            return found
        answer = await client.get(following[0])


def _has(heard: peers.Heard, modality: str) -> bool:
    return _first_object(heard, modality) is not None


def _first_object(heard: peers.Heard, modality: str, study_instance_uid: str = "") -> bytes | None:
    for content in list(heard.objects.values()):
        header = pydicom.dcmread(BytesIO(content), stop_before_pixels=True)
        if header.Modality == modality and study_instance_uid in ("", header.StudyInstanceUID):
            return content
    return None


async def _collect(on: Stage, client: httpx.AsyncClient, cases: Sequence[Case], heard: peers.Heard, say: Say) -> None:
    say("\nWhat came out:\n")
    for resource_type in (
        "Patient",
        "ServiceRequest",
        "Task",
        "ImagingStudy",
        "Observation",
        "DiagnosticReport",
        "Device",
        "Provenance",
    ):
        found = await _search(client, resource_type)
        for resource in found:
            text = json.dumps(resource, indent=2).encode()
            peers.save(on.output / "fhir" / resource_type, f"{resource['id']}.json", text)
        say(f"  {len(found):3} {resource_type:18} demo-output/fhir/{resource_type}/")
    alerting = next(c.examination.study_instance_uid for c in cases if c.kind == "phantom")
    for name, content in (
        ("sr.dcm", _first_object(heard, "SR", alerting)),
        ("seg.dcm", _first_object(heard, "SEG", alerting)),
        ("pr.dcm", _first_object(heard, "PR")),
        ("alert.hl7", heard.alerts[0].replace(b"\r", b"\n")),
        ("notification.json", _pretty(next(b for b in heard.notifications if b'"Observation"' in b))),
        ("audit.ndjson", await _audit(client)),
        ("finding.png", await _picture(client)),
    ):
        if content is not None:
            peers.save(on.output, name, content)
            say(f"      {name:22} demo-output/{name}")
    say("\nThe findings:\n")
    for observation in await _search(client, "Observation"):
        say(f"  {_told(observation)}")
    say("\nThe worklist, sickest first:\n")
    for row in (await client.get("/api/worklist")).json():
        say(f"  {row['accession_number']:12} {'/'.join(row['modalities']):4} {row['priority']:8} {row['reason']}")


async def _audit(client: httpx.AsyncClient) -> bytes:
    lines = [json.dumps(event) for event in await _search(client, "AuditEvent")]
    return "\n".join(lines).encode() + b"\n"


async def _picture(client: httpx.AsyncClient) -> bytes | None:
    """The picture of the first critical study's finding."""
    for row in (await client.get("/api/worklist")).json():
        study = (await client.get(f"/api/studies/{row['study_id']}")).json()
        for run in study["runs"]:
            if row["critical"] and any(f["critical"] and f["present"] for f in run["reading"]["findings"]):
                answer = await client.get(f"/api/runs/{run['id']}/picture")
                answer.raise_for_status()
                return answer.content
    return None


def _pretty(body: bytes) -> bytes:
    return json.dumps(json.loads(body), indent=2).encode()


def _told(observation: Mapping[str, Any]) -> str:
    name = observation["code"]["coding"][0]["display"]
    value = observation.get("valueCodeableConcept", {}).get("coding", [{}])[0].get("display", "")
    components = [_quantity(c, c["code"]["coding"][0]["display"]) for c in observation.get("component", ())]
    parts = [_quantity(observation), *components]
    return f"{name}: {value} {', '.join(p for p in parts if p)}".rstrip()


def _quantity(element: Mapping[str, Any], label: str = "") -> str:
    quantity = element.get("valueQuantity")
    unit = quantity.get("code", "") if quantity else ""
    return f"{label} {quantity['value']} {'' if unit == '1' else unit}".strip() if quantity else ""


async def _stay(on: Stage, token: str, say: Say) -> None:
    peers.save(on.output, "token.txt", token.encode()).chmod(0o600)
    say(
        f"\nThe server stays up. Press Ctrl-C to stop it.\n"
        f"  worklist   {on.url}/worklist   (log in with the token in demo-output/token.txt)\n"
        f"  FHIR       {on.url}/fhir/metadata\n"
        f"  DICOMweb   {on.url}/dicom-web\n"
    )
    await asyncio.Event().wait()


TOKEN_LIFETIME = timedelta(hours=8)
