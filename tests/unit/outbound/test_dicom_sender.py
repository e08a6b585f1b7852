"""Sending to an archive: dcmtk's storescp as receiver, and pynetdicom where an archive must misbehave on purpose."""

from __future__ import annotations

import gc
import io
import os
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pydicom
import pytest
from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.dimse import DIMSEServiceProvider
from tests.ports import free_port

from wetread.errors import Misconfigured, PeerUnavailable
from wetread.outbound.dicom import RefusedByArchive, send, stow
from wetread.wire.dicom import data_set_start

DATA = Path(__file__).parents[2] / "data/dicom"
SR = (DATA / "sr_document.dcm").read_bytes()
MR = (DATA / "syntaxes/MR_small.dcm").read_bytes()


def deliver(port: int, *data: bytes, called_ae: str = "SINK") -> None:
    send(data, host="127.0.0.1", port=port, called_ae=called_ae, calling_ae="WETREAD", timeout_s=5)


@pytest.fixture
def storescp(tmp_path: Path) -> Iterator[int]:
    """dcmtk's receiver, writing what it gets bit by bit into `tmp_path`; its port."""
    port = free_port()
    command = ["storescp", "-aet", "SINK", "-od", str(tmp_path), "+B", "+xa", "--filename-extension", ".dcm", str(port)]
    environment = {key: value for key, value in os.environ.items() if key != "TCP_NODELAY"}
    with subprocess.Popen(command, env=environment) as receiver:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield port
        receiver.terminate()


@pytest.fixture
def archive() -> Iterator[Callable[..., int]]:
    """An archive that answers each C-STORE with a given status, or by a function, in Implicit VR Little Endian only;
    gives its port."""
    servers = []

    def start(status: int | Callable[[evt.Event], int] | None, *, require_called_aet: bool = False) -> int:
        entity = AE("SINK")
        entity.require_called_aet = require_called_aet
        for sop_class in {pydicom.dcmread(io.BytesIO(one)).SOPClassUID for one in (SR, MR)}:
            entity.add_supported_context(sop_class, ImplicitVRLittleEndian)

        def on_store(event: evt.Event) -> int:
            if status is None:
                event.assoc.abort()
                return 0x0110
            if callable(status):
                return int(status(event))
            return status

        server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, on_store)])
        servers.append(server)
        return int(server.server_address[1])

    yield start
    for server in servers:
        server.shutdown()


def _copies(count: int) -> list[bytes]:
    """Of one document, each an instance of its own."""
    dataset, made = pydicom.dcmread(io.BytesIO(SR)), []
    for number in range(count):
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}"
        buffer = io.BytesIO()
        dataset.save_as(buffer, enforce_file_format=True)
        made.append(buffer.getvalue())
    return made


def test_an_archive_with_nagle_is_not_slowed_by_delayed_acknowledgements(storescp: int) -> None:
    copies, began = _copies(100), time.monotonic()
    deliver(storescp, *copies)
    assert time.monotonic() - began < 100 * 0.04


def test_an_answer_that_the_library_takes_for_a_request_is_not_lost(
    storescp: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its threads wake late, as on a busy machine: who waits for the answer last of all."""
    get_msg = DIMSEServiceProvider.get_msg

    class Late(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            is_set = super().wait(timeout)
            time.sleep(0.1)
            return is_set

    def later(provider: DIMSEServiceProvider, block: bool = False) -> Any:
        time.sleep(0.3 if block else 0)
        return get_msg(provider, block)

    monkeypatch.setattr(DIMSEServiceProvider, "get_msg", later)
    monkeypatch.setattr("pynetdicom.association.threading", SimpleNamespace(**{**vars(threading), "Event": Late}))
    deliver(storescp, *_copies(4))
    assert len(list(tmp_path.glob("*.dcm"))) == 4


def test_an_archive_that_is_killed_leaves_no_socket_open(archive: Callable[..., int]) -> None:
    def reset(event: evt.Event) -> int:
        connection = event.assoc.dul.socket.socket
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        return 0

    for _ in range(3):
        with pytest.raises(PeerUnavailable):
            deliver(archive(reset), SR)
    gc.collect()


def test_what_wetread_made_arrives_byte_for_byte(storescp: int, tmp_path: Path) -> None:
    deliver(storescp, SR)
    (received,) = tmp_path.glob("*.dcm")
    got = received.read_bytes()
    assert got[data_set_start(got) :] == SR[data_set_start(SR) :]


@pytest.mark.parametrize(
    "name", ["MR_small_implicit", "MR_small_RLE", "MR_small_jp2klossless", "CT_deflated", "CT_jpeg_baseline"]
)
def test_each_instance_goes_in_its_own_transfer_syntax(storescp: int, tmp_path: Path, name: str) -> None:
    data = (DATA / f"syntaxes/{name}.dcm").read_bytes()
    deliver(storescp, data)
    (received,) = tmp_path.glob("*.dcm")
    sent, got = pydicom.dcmread(io.BytesIO(data)), pydicom.dcmread(received)
    assert got.file_meta.TransferSyntaxUID == sent.file_meta.TransferSyntaxUID
    assert got.PixelData == sent.PixelData


def test_many_kinds_go_on_one_call(storescp: int, tmp_path: Path) -> None:
    deliver(storescp, SR, MR, (DATA / "syntaxes/CT_jpeg_baseline.dcm").read_bytes())
    assert len(list(tmp_path.glob("*.dcm"))) == 3


def test_an_archive_that_takes_only_the_default_transfer_syntax_gets_it(archive: Callable[..., int]) -> None:
    deliver(archive(0x0000), MR)


@pytest.mark.parametrize("status", [0x0000, 0xB000, 0xB007])
def test_success_and_warnings_are_success(archive: Callable[..., int], status: int) -> None:
    deliver(archive(status), SR)


@pytest.mark.parametrize("status", [0xA900, 0xC000, 0x0122, 0x0124, 0x0111])
def test_a_refusal_is_for_good_and_says_its_status(archive: Callable[..., int], status: int) -> None:
    port = archive(status)
    with pytest.raises(RefusedByArchive, match=f"{status:04X}") as refused:
        deliver(port, SR)
    assert refused.value.status == status


@pytest.mark.parametrize("status", [0xA700, 0xA701, 0x0110, None])
def test_out_of_resources_and_an_abort_are_passing(archive: Callable[..., int], status: int | None) -> None:
    port = archive(status)
    with pytest.raises(PeerUnavailable):
        deliver(port, SR)


def test_a_sop_class_or_transfer_syntax_that_is_not_taken_is_refused(archive: Callable[..., int]) -> None:
    port = archive(0x0000)
    compressed = (DATA / "syntaxes/CT_jpeg_baseline.dcm").read_bytes()
    with pytest.raises(RefusedByArchive) as refused:
        deliver(port, SR, compressed)
    assert refused.value.status == 0x0122


def test_an_ae_title_that_the_archive_does_not_know_is_refused(archive: Callable[..., int]) -> None:
    port = archive(0x0000, require_called_aet=True)
    with pytest.raises(RefusedByArchive, match="AE titles"):
        deliver(port, SR, called_ae="NOBODY")


def test_an_archive_that_is_down_is_passing() -> None:
    with pytest.raises(PeerUnavailable):
        deliver(free_port(), SR)


@pytest.fixture
def dicomweb() -> Iterator[Callable[[int, bytes], str]]:
    """An HTTP server that answers STOW-RS with a given status and body; gives its URL."""
    servers: list[HTTPServer] = []

    def start(status: int, body: bytes) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(status)
                self.send_header("Content-Type", "application/dicom+json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                return

        server = HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/dicom-web"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def _failed(reason: int) -> bytes:
    return b'{"00081198":{"vr":"SQ","Value":[{"00081197":{"vr":"US","Value":[%d]}}]}}' % reason


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (503, b"", PeerUnavailable),
        (429, b"", PeerUnavailable),
        (409, _failed(0x0122), RefusedByArchive),
        (401, b"", RefusedByArchive),
        (202, _failed(0xC000), RefusedByArchive),
        (202, _failed(0xA700), PeerUnavailable),
    ],
)
def test_stow_tells_refused_from_passing(
    dicomweb: Callable[[int, bytes], str], status: int, body: bytes, error: type[Exception]
) -> None:
    url = dicomweb(status, body)
    with pytest.raises(error):
        stow([SR], url=url, headers={}, timeout_s=5)


def test_stow_succeeds_with_an_empty_failure_list(dicomweb: Callable[[int, bytes], str]) -> None:
    stow([SR], url=dicomweb(200, b"{}"), headers={}, timeout_s=5)


def test_stow_to_nobody_is_passing_and_to_no_url_is_a_setting_to_mend() -> None:
    with pytest.raises(PeerUnavailable):
        stow([SR], url=f"http://127.0.0.1:{free_port()}", headers={}, timeout_s=2)
    with pytest.raises(Misconfigured):
        stow([SR], url="archive", headers={}, timeout_s=2)


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[str]:
    """Orthanc with its DICOMweb plugin; the DICOMweb root."""
    http, dicom = free_port(), free_port()
    (tmp_path / "orthanc.json").write_text(
        f"""{{"Name": "peer", "StorageDirectory": "{tmp_path}/db", "IndexDirectory": "{tmp_path}/db",
        "Plugins": ["/usr/share/orthanc/plugins/libOrthancDicomWeb.so"], "RemoteAccessAllowed": false,
        "AuthenticationEnabled": false, "HttpPort": {http}, "DicomAet": "ORTHANC", "DicomPort": {dicom},
        "DicomWeb": {{"Enable": true, "Root": "/dicom-web/"}}}}"""
    )
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(["Orthanc", tmp_path / "orthanc.json"], stdout=log, stderr=log) as server,
    ):
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", http)) == 0:
                    break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{http}/dicom-web"
        server.terminate()


@pytest.mark.peer
def test_orthanc_takes_what_is_stowed_twice(orthanc: str) -> None:
    for _ in range(2):
        stow([SR, MR], url=orthanc, headers={}, timeout_s=20)
