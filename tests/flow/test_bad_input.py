"""Bad input, bad peers, bad disks: each gets its protocol's own error, is kept and shown, and stops no other work."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import resource
import secrets
import socket
import socketserver
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.dimse_primitives import C_STORE

from tests.ports import free_port
from tests.unit.reading.conftest import onnx_bytes
from wetread.demo import peers
from wetread.errors import PeerUnavailable
from wetread.outbound.mllp import RefusedByPeer
from wetread.wire import hl7
from wetread.wire.dicom import data_set_start
from wetread.wire.hl7_ack import recover_control_id

from .conftest import ROOT, ROUTING, Hospital, Server, Story, configuration, part10, until
from .debian_postgresql import debian_postgresql

# pynetdicom leaves sockets behind when an archive goes down.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

_MORE_ROUTING = """\
  - name: a model that raises
    models: [film-that-raises]
    when: {series_description: {matches: RAISES}}
  - name: a model that answers NaN
    models: [film-that-answers-nan]
    when: {series_description: {matches: NAN}}
"""
_CT = "1.2.840.10008.5.1.4.1.1.2"


class Archive:
    """A Storage SCP that can be taken down and brought back on its port; remembers in which order objects came."""

    def __init__(self, heard: peers.Heard) -> None:
        self.port = free_port()
        self.heard = heard
        self.order: list[str] = []
        self._server: Any = None
        self.start()

    def start(self) -> None:
        entity = AE("ARCHIVE")
        entity.supported_contexts = AllStoragePresentationContexts
        handlers = [(evt.EVT_C_STORE, self._keep)]
        self._server = entity.start_server(("127.0.0.1", self.port), block=False, evt_handlers=cast(Any, handlers))

    def stop(self) -> None:
        self._server.shutdown()

    def _keep(self, event: Any) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        self.order.append(uid)
        self.heard.objects[uid] = event.encoded_dataset()
        return 0x0000


class AlertReceiver:
    """An MLLP peer that answers what it is told to, and can be taken down and brought back on its port."""

    def __init__(self, heard: peers.Heard) -> None:
        self.port = free_port()
        self.code = "AA"
        self._heard = heard
        self._open: set[socket.socket] = set()
        self._server: socketserver.ThreadingTCPServer | None = None
        self.start()

    def start(self) -> None:
        receiver = self

        class Connection(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                receiver._open.add(self.request)
                buffer = b""
                while data := self.request.recv(65536):
                    buffer += data
                    while b"\x1c\r" in buffer:
                        framed, buffer = buffer.split(b"\x1c\r", 1)
                        self.request.sendall(receiver._answer(framed.lstrip(b"\x0b")))
                receiver._open.discard(self.request)

        socketserver.ThreadingTCPServer.allow_reuse_address = True
        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", self.port), Connection)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()
        for connection in list(self._open):
            connection.shutdown(socket.SHUT_RDWR)

    def _answer(self, message: bytes) -> bytes:
        self._heard.alerts.append(message)
        control = recover_control_id(message)
        return f"\x0bMSH|^~\\&|A|B|C|D|20260101||ACK|1|P|2.5.1\rMSA|{self.code}|{control}\r\x1c\r".encode()


class Ward(Hospital):
    """The hospital of these tests, whose peers can fail."""

    archive: Archive
    alert_receiver: AlertReceiver
    told: list[Story]

    def api(self, path: str, **params: object) -> Any:
        with self.client() as client:
            answer = client.get(path, params=cast(Any, params))
            assert answer.status_code == 200, answer.text
            return answer.json()

    def entry_of(self, control_id: str) -> dict[str, Any]:
        """The newest message of this control id, as staff see it."""
        return next((m for m in self.api("/api/messages", limit=200) if m["control_id"] == control_id), {})

    def deliveries(self, state: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.api("/api/deliveries", state=state, limit=200)
        return found

    def log(self) -> str:
        return (self.server.config.parent / "server.log").read_text()


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    folder = tmp_path_factory.mktemp("ward")
    overlay = folder / "overlay"
    overlay.mkdir()
    (overlay / "routing.yaml").write_text(ROUTING + _MORE_ROUTING)
    seven = [(1, 1), (2, 7), (8, "seven"), (9, (7).to_bytes(8, "little"))]
    _package(folder, "film-that-raises", [("Reshape", ["image", "seven"], ["p"])], [seven])
    _package(folder, "film-that-answers-nan", [("Sub", ["image", "image"], ["z"]), ("Div", ["z", "z"], ["p"])])
    heard = peers.Heard()
    archive, alerts = Archive(heard), AlertReceiver(heard)
    ports = {name: free_port() for name in ("http", "mllp", "dicom")}
    text = configuration(ports, {"archive": archive.port, "alerts": alerts.port}, overlay_dir=overlay)
    text = text.replace("[mllp]\n", "[mllp]\nlimit_mb = 1\noversize_quota_mb = 1\n")
    config = folder / "wetread.toml"
    config.write_text(f'{text}[models]\nfolders = ["{folder / "models"}"]\n')
    server = Server(config, folder / "data", ports)
    with _small_disk(folder / "data" / "blobs"):
        server.start()
        try:
            server.wait_ready()
            made = Ward(server, heard, 0)
            made.archive, made.alert_receiver, made.told = archive, alerts, []
            yield made
        finally:
            server.stop()
            archive.stop()
            alerts.stop()


def _package(folder: Path, name: str, nodes: list[Any], initializers: list[Any] | None = None) -> None:
    source, target = ROOT / "models" / "cxr-pneumonia-peds", folder / "models" / name
    target.mkdir(parents=True)
    content = onnx_bytes(nodes, "image", ["p"], initializers=initializers)
    (target / "model.onnx").write_bytes(content)
    for file in ("CARD.md", "LICENSE"):
        (target / file).write_bytes((source / file).read_bytes())
    manifest = json.loads((source / "manifest.json").read_text())
    manifest["name"] = name
    manifest["model"] |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    manifest["outputs"] = [{"kind": "probability", "name": "p"}]
    manifest["findings"][0]["output"] = "p"
    manifest["network_data_format"]["outputs"] = {"p": manifest["network_data_format"]["outputs"]["p_pneumonia"]}
    (target / "manifest.json").write_text(json.dumps(manifest))


@contextmanager
def _small_disk(folder: Path) -> Iterator[None]:
    """A disk of 64 MB of its own under `folder`, where we may mount one."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m,mode=0700", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def tell(ward: Ward, story: Callable[[str], Story]) -> Callable[[str], Story]:
    """Makes a story, and remembers whose names must not stand in the log."""

    def make(name: str) -> Story:
        told = story(name)
        ward.told.append(told)
        return told

    return make


Tell = Callable[[str], Story]


def test_a_frame_that_breaks_off_gets_no_answer_and_the_whole_message_sent_again_is_taken(
    ward: Ward, tell: Tell
) -> None:
    film = tell("chest-film")
    with socket.create_connection(("127.0.0.1", ward.server.ports["mllp"]), 10) as connection:
        connection.sendall(b"\x0b" + film.message[:300])
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1024) == b""
    control = recover_control_id(film.message)
    torn = until("the torn message to be shown", lambda: ward.entry_of(control))
    assert (torn["state"], torn["size_bytes"]) == ("refused", 300)
    assert ward.order(film.message).code == "AA"
    until("it to be mapped", lambda: ward.entry_of(control).get("state") == "mapped")
    assert "frame broken off after 300 bytes" in ward.log()


def test_noise_is_dropped_and_its_sender_hung_up_on(ward: Ward, tell: Tell) -> None:
    noise = secrets.token_bytes(1 << 20).replace(b"\x0b", b"x")
    with socket.create_connection(("127.0.0.1", ward.server.ports["mllp"]), 10) as connection:
        connection.settimeout(10)
        try:
            connection.sendall(noise)
            assert connection.recv(1024) == b""
        except ConnectionError:
            """Hung up on while it was still talking."""
    assert "bytes outside a frame" in ward.log()
    assert ward.order(tell("chest-film").message).code == "AA"


def test_a_message_of_100_mb_is_refused_and_only_its_head_and_digest_kept(ward: Ward) -> None:
    control = f"BIG{secrets.token_hex(4)}"
    message = _header(control) + b"OBX|1|TX|1||" + b"x" * (100 << 20)
    [front] = [pid for pid, roles in ward.server.processes().items() if "http" in roles]
    before = peak = _resident_mb(front)
    with socket.create_connection(("127.0.0.1", ward.server.ports["mllp"]), 60) as connection:
        view = memoryview(b"\x0b" + message + b"\x1c\r")
        for start in range(0, len(view), 1 << 20):
            connection.sendall(view[start : start + (1 << 20)])
            peak = max(peak, _resident_mb(front))
        answer = hl7.parse(connection.recv(65536).strip(b"\x0b\x1c\r"))
    assert answer.first("MSA").value(1) == "AR"
    assert answer.first("ERR") is not None
    assert peak - before < 30, f"{before} MB before, {peak} MB at most"
    kept = ward.entry_of(control)
    assert (kept["verdict"], kept["state"], kept["size_bytes"]) == ("AR", "refused", len(message))
    shown = ward.command("messages", "show", str(kept["id"]))
    assert len(shown) == 64 * 1024 + 1


def test_the_quota_of_a_sender_ends_what_is_kept_of_its_oversize_messages(ward: Ward) -> None:
    message = _header("QUOTA") + b"OBX|1|TX|1||" + b"x" * (1 << 20)
    for _ in range(17):
        with pytest.raises(RefusedByPeer):
            ward.order(message)
    assert ward.command("messages", "show", str(ward.entry_of("QUOTA")["id"])).strip() == ""


@pytest.mark.parametrize(
    ("changes", "codes"),
    [
        ({b"MIA": b"MI\xc4"}, {"AE", "AR"}),
        ({b"MIA": b"MI\xc4", b"UNICODE UTF-8": b"KLINGON"}, {"AE", "AR"}),
        ({b"ORM^O01^ORM_O01": b"ORM^O99^ORM_O99"}, {"AR"}),
    ],
    ids=["bytes that are not of its charset", "an unknown charset", "an unknown trigger"],
)
def test_what_can_never_be_taken_is_refused_with_the_place(
    ward: Ward, tell: Tell, changes: dict[bytes, bytes], codes: set[str]
) -> None:
    film = tell("chest-film")
    message = film.message
    for old, new in changes.items():
        assert old in message
        message = message.replace(old, new)
    with pytest.raises(RefusedByPeer) as refused:
        ward.order(message)
    assert refused.value.ack.code in codes
    error = hl7.parse(refused.value.ack.raw).first("ERR")
    assert error is not None
    assert error.value(2) or error.value(3), refused.value.ack.raw
    kept = ward.entry_of(recover_control_id(film.message))
    assert kept["state"] == "refused"
    assert kept["error"]
    assert ward.order(film.message).code == "AA"


def test_a_study_without_its_uid_is_refused_and_shown(ward: Ward, tell: Tell) -> None:
    [film] = tell("chest-film").datasets
    del film.StudyInstanceUID
    assert _c_store(ward, film) & 0xF000 in (0xA000, 0xC000)
    assert str(film.SOPInstanceUID) in ward.command("studies", "refused")


def test_a_second_instance_under_a_taken_uid_is_refused_and_the_first_stays(ward: Ward, tell: Tell) -> None:
    told = tell("chest-film")
    ward.store(told.datasets)
    changed = copy.deepcopy(told.datasets[0])
    changed.SeriesDescription = "ANOTHER"
    assert _c_store(ward, changed) == 0x0111
    assert _c_store(ward, told.datasets[0]) == 0x0000
    assert ward.command("studies", "refused").count(str(changed.SOPInstanceUID)) == 1
    assert until("the study", lambda: ward.study(told.study_instance_uid))["instance_count"] == 1


@pytest.mark.parametrize("length", [0, 100, 700], ids=["no byte", "a torn header", "torn in the middle"])
def test_an_empty_or_truncated_data_set_is_refused(ward: Ward, tell: Tell, length: int) -> None:
    [film] = tell("chest-film").datasets
    content = _encoded(film)[:length]
    assert _c_store(ward, film, content) & 0xF000 in (0xA000, 0xC000)
    assert str(film.SOPInstanceUID) in ward.command("studies", "refused")


def test_an_unknown_transfer_syntax_is_not_negotiated(ward: Ward) -> None:
    entity = AE("MODALITY")
    entity.add_requested_context(_CT, "1.2.826.0.1.3680043.9.7133.99")
    association = entity.associate("127.0.0.1", ward.server.ports["dicom"])
    try:
        assert [context.result for context in association.rejected_contexts] == [0x04]
    finally:
        association.release()


def test_a_corrupt_slice_in_a_series_is_left_out_and_said(ward: Ward, tell: Tell) -> None:
    bleed = tell("head-ct-phantom-bleed")
    corrupt = bleed.datasets[20]
    corrupt.PixelData = corrupt.PixelData[:1000]
    assert ward.order(bleed.message).code == "AA"
    for dataset in bleed.datasets:
        assert _c_store(ward, dataset) == 0x0000
    task = _ended(ward, bleed)
    assert task["status"] == "completed", task
    [report] = ward.search("DiagnosticReport", **{"based-on": task["basedOn"][0]["reference"]})
    assert "skipped" in json.dumps(report), report
    until("the SEG", lambda: ward.objects("SEG", bleed.study_instance_uid))


@pytest.mark.parametrize(("series", "model"), [("RAISES", "film-that-raises"), ("NAN", "film-that-answers-nan")])
def test_a_model_that_fails_fails_its_run_and_no_other(ward: Ward, tell: Tell, series: str, model: str) -> None:
    bad, good = tell("chest-film"), tell("chest-film")
    bad.datasets[0].SeriesDescription = series
    for told in (bad, good):
        assert ward.order(told.message).code == "AA"
        ward.store(told.datasets)
    task = _ended(ward, bad)
    assert task["status"] == "failed"
    assert model in task["statusReason"]["text"]
    assert ward.study(bad.study_instance_uid)["state"] == "failed"
    assert "failed" in ward.command("studies", "list", "--state", "failed")
    [report] = ward.search("DiagnosticReport", **{"based-on": task["basedOn"][0]["reference"]})
    assert report["status"] == "preliminary", "the other model's report"
    assert _ended(ward, good)["status"] == "completed"


def test_deliveries_wait_in_order_for_an_archive_that_is_down(ward: Ward, tell: Tell) -> None:
    until("the archive to have everything", lambda: not ward.deliveries("pending"))
    ward.archive.stop()
    films = [tell("chest-film") for _ in range(2)]
    for film in films:
        assert ward.order(film.message).code == "AA"
        ward.store(film.datasets)
        assert _ended(ward, film)["status"] == "completed"
    waiting = until(
        "deliveries that wait", lambda: [d for d in ward.deliveries("pending") if d["destination"] == "archive"]
    )
    assert len(waiting) == 4
    until("a try", lambda: any("archive" in (d["last_error"] or "") for d in ward.deliveries("pending")))
    assert "pending" in ward.command("deliveries", "list", "--state", "pending")
    ward.archive.order.clear()
    ward.archive.start()
    until("all to be delivered", lambda: not ward.deliveries("pending"))
    studies = [film.study_instance_uid for film in films]
    came = [next(s for s in studies if _belongs(ward, uid, s)) for uid in ward.archive.order]
    assert came == [studies[0], studies[0], studies[1], studies[1]]


def test_alerts_wait_for_a_destination_that_cannot_be_reached(ward: Ward, tell: Tell) -> None:
    ward.alert_receiver.stop()
    bleed = tell("head-ct-phantom-bleed")
    assert ward.order(bleed.message).code == "AA"
    ward.store(bleed.datasets)
    assert _ended(ward, bleed)["status"] == "completed"
    until("the SEG, though the alert waits", lambda: ward.objects("SEG", bleed.study_instance_uid))
    [waiting] = until("a try", lambda: [d for d in ward.deliveries("pending") if d["attempts"] > 0])
    assert "cannot be reached" in waiting["last_error"]
    assert ward.alerts(bleed.accession_number) == []
    ward.alert_receiver.start()
    [alert] = until("the alert", lambda: ward.alerts(bleed.accession_number))
    assert recover_control_id(alert)


def test_a_refused_alert_is_a_dead_letter_until_a_person_revives_it(ward: Ward, tell: Tell) -> None:
    ward.alert_receiver.code = "AE"
    bleed = tell("head-ct-phantom-bleed")
    assert ward.order(bleed.message).code == "AA"
    ward.store(bleed.datasets)
    [dead] = until("a dead letter", lambda: ward.deliveries("dead"))
    assert "AE" in dead["last_error"]
    ward.alert_receiver.code = "AA"
    assert dead["id"] in ward.command("deliveries", "list", "--state", "dead")
    ward.command("deliveries", "revive", dead["id"])
    until("no dead letter", lambda: not ward.deliveries("dead") and not ward.deliveries("pending"))
    first, second = ward.alerts(bleed.accession_number)
    assert first == second


def test_a_full_disk_refuses_instances_for_now_and_takes_them_when_there_is_room(ward: Ward, tell: Tell) -> None:
    film = tell("chest-film")
    assert ward.order(film.message).code == "AA"
    with _full(ward):
        assert _c_store(ward, film.datasets[0]) == 0xA700
        assert ward.order(tell("chest-film").message).code == "AA"
    assert _c_store(ward, film.datasets[0]) == 0x0000
    assert _ended(ward, film)["status"] == "completed"


@contextmanager
def _full(ward: Ward) -> Iterator[None]:
    blobs = ward.server.data_dir / "blobs"
    if os.path.ismount(blobs):
        filler = blobs / "filler"
        free = os.statvfs(blobs)
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize)
        yield
        filler.unlink()
        return
    [pid] = [pid for pid, roles in ward.server.processes().items() if roles == "dicom"]
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE, (65536, resource.RLIM_INFINITY))
    yield
    resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


@pytest.mark.peer
def test_without_its_database_nothing_is_acknowledged_and_all_is_taken_when_it_is_back(
    ward: Ward, tell: Tell, tmp_path: Path
) -> None:
    ports = {name: free_port() for name in ("http", "mllp", "dicom")}
    config = tmp_path / "wetread.toml"
    peer_ports = {"archive": ward.archive.port, "alerts": ward.alert_receiver.port}
    config.write_text(configuration(ports, peer_ports))
    film, later = tell("chest-film"), tell("chest-film")
    with debian_postgresql(free_port()) as postgresql:
        server = Server(config, tmp_path / "data", ports, {"WETREAD_DATABASE_URL": postgresql.url})
        server.start()
        try:
            server.wait_ready()
            hospital = Hospital(server, ward.heard, 0)
            assert hospital.order(film.message).code == "AA"
            postgresql.stop()
            with ThreadPoolExecutor() as callers:
                order = callers.submit(hospital.order, later.message)
                stored = callers.submit(_c_store, hospital, film.datasets[0])
                ready = callers.submit(httpx.get, f"{server.url}/readyz", timeout=30)
                assert httpx.get(f"{server.url}/healthz", timeout=30).status_code == 200
            with pytest.raises(PeerUnavailable, match="closed the connection without an answer"):
                order.result()
            assert (stored.result(), ready.result().status_code) == (0xA700, 503)
            postgresql.start()
            began = time.monotonic()
            until("an answer", lambda: _acknowledged(hospital, later.message))
            until("the modality's next try to be stored", lambda: _c_store(hospital, film.datasets[0]) == 0x0000)
            assert _ended(hospital, film)["status"] == "completed"
            print(f"read {time.monotonic() - began:.1f} s after the database was back")
            _assert_no_patient_in((tmp_path / "server.log").read_text(), ward.told)
        finally:
            server.stop()


def test_the_log_names_no_patient(ward: Ward) -> None:
    _assert_no_patient_in(ward.log(), ward.told)


def _assert_no_patient_in(log: str, told: list[Story]) -> None:
    assert told
    for one in told:
        patient = one.case.patient
        for word in (patient.family, patient.id, patient.birth_date, one.accession_number):
            assert word not in log, [line for line in log.splitlines() if word in line][:3]


def _acknowledged(hospital: Hospital, message: bytes) -> bool:
    try:
        return hospital.order(message).code == "AA"
    except PeerUnavailable:
        return False


def _ended(hospital: Hospital, told: Story) -> dict[str, Any]:
    def ended() -> dict[str, Any] | None:
        task = hospital.task_of(told.accession_number)
        return task if task.get("status") in ("completed", "failed", "rejected") else None

    found: dict[str, Any] = until("the Task to end", ended)
    return found


def _belongs(ward: Ward, sop_instance_uid: str, study_instance_uid: str) -> bool:
    return study_instance_uid.encode() in ward.heard.objects[sop_instance_uid]


def _header(control: str) -> bytes:
    return f"MSH|^~\\&|DEMO-RIS|DEMO-HOSPITAL|WETREAD|WETREAD|20261120||ORM^O01^ORM_O01|{control}|P|2.5.1\r".encode()


def _encoded(dataset: Dataset) -> bytes:
    content = part10(dataset)
    return content[data_set_start(content) :]


def _c_store(hospital: Hospital, dataset: Dataset, content: bytes | None = None) -> int | None:
    """The status of a C-STORE of the data set, or of other bytes in its place; None where no answer comes."""
    entity = AE("MODALITY")
    entity.add_requested_context(dataset.SOPClassUID, ExplicitVRLittleEndian)
    association: Any = entity.associate("127.0.0.1", hospital.server.ports["dicom"])
    assert association.is_established
    try:
        request = C_STORE()
        request.MessageID, request.Priority = 1, 2
        request.AffectedSOPClassUID = dataset.SOPClassUID
        request.AffectedSOPInstanceUID = dataset.SOPInstanceUID
        if content != b"":
            request.DataSet = BytesIO(_encoded(dataset) if content is None else content)
        association._reactor_checkpoint.clear()
        association.dimse.send_msg(request, association.accepted_contexts[0].context_id)
        _, response = association.dimse.get_msg(block=True)
        association._reactor_checkpoint.set()
        return int(response.Status) if response is not None else None
    finally:
        association.release()


def _resident_mb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) // 1024
