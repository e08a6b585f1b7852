"""C-STORE and C-ECHO with real senders: dcmtk's, pynetdicom's, and a bare socket for what no honest sender does."""

from __future__ import annotations

import io
import os
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association
from tests.certificates import Authority

from wetread.archive import instances, quarantine
from wetread.domain.reader import SYSTEM
from wetread.errors import Misconfigured, OutOfSpace
from wetread.inbound.dicom import DicomListener, DimseEvent
from wetread.inbound.dicom_negotiation import AllowedPeer, is_admitted
from wetread.outbound.dicom import leave_answers
from wetread.store.blobs import LocalBlobs
from wetread.store.database import Database, SyncConnection, SyncDatabase
from wetread.wire.dicom import data_set_start, facts
from wetread.wire.dicom_frames import frames
from wetread.wire.tls import ServerTls, server_context

DATA = Path(__file__).parents[2] / "data/dicom"
MR = "1.2.840.10008.5.1.4.1.1.4"
Listen = Callable[..., DicomListener]


@pytest.fixture
def listen(sync_database: SyncDatabase, blobs: LocalBlobs) -> Iterator[Listen]:
    started: list[DicomListener] = []

    def start(**options: object) -> DicomListener:
        database = options.pop("database", sync_database)
        listener = DicomListener("WETREAD", "127.0.0.1", 0, database, blobs, **options)  # type: ignore[arg-type]
        listener.start()
        started.append(listener)
        return listener

    yield start
    for listener in started:
        listener.stop(grace_s=0.5)


def dcmtk(*command: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TCP_NODELAY": "1"}
    return subprocess.run(
        [str(word) for word in command], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def mr(**values: object) -> Dataset:
    dataset = pydicom.dcmread(DATA / "syntaxes/MR_small.dcm")
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def associate(listener: DicomListener, *contexts: tuple[str, str], ae_title: str = "MODALITY") -> Association:
    entity = AE(ae_title)
    for abstract, transfer in contexts or ((MR, ExplicitVRLittleEndian),):
        entity.add_requested_context(abstract, transfer)
    association = entity.associate("127.0.0.1", listener.port, ae_title="WETREAD")
    leave_answers(association)
    return association


def store(listener: DicomListener, dataset: Dataset) -> Dataset:
    association = associate(listener, (dataset.get("SOPClassUID", MR), dataset.file_meta.TransferSyntaxUID))
    assert association.is_established
    try:
        return association.send_c_store(dataset)
    finally:
        association.release()


async def stored(database: Database, blobs: LocalBlobs, sop_instance_uid: str) -> bytes:
    async with database.transaction() as conn:
        return await instances.data(conn, SYSTEM, blobs, sop_instance_uid)


async def refusals(database: Database) -> list[tuple[str, str]]:
    async with database.transaction() as conn:
        return [(one.reason, one.source) for one in await quarantine.refused(conn, SYSTEM, 10)]


def blob_count(blobs: LocalBlobs) -> int:
    return sum(path.is_file() for path in blobs.root.rglob("*"))


def test_echo_is_answered(listen: Listen) -> None:
    assert dcmtk("echoscu", "127.0.0.1", str(listen().port)).returncode == 0


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("MR_small", "-xe"),
        ("MR_small_implicit", "-xi"),
        ("MR_small_bigendian", "-xb"),
        ("MR_small_RLE", "-xr"),
        ("MR_small_jp2klossless", "-xv"),
        ("MR_small_jpeg_ls_lossless", "-xt"),
        ("CT_deflated", "-xd"),
        ("CT_jpeg_baseline", "-xy"),
    ],
)
async def test_each_transfer_syntax_is_stored_as_it_was_sent(
    listen: Listen, database: Database, blobs: LocalBlobs, name: str, option: str
) -> None:
    path = DATA / f"syntaxes/{name}.dcm"
    sent = dcmtk("storescu", "-aet", "MODALITY", option, "127.0.0.1", str(listen().port), path)
    assert sent.returncode == 0, sent.stderr
    original = facts(path)
    got = await stored(database, blobs, original.sop_instance_uid)
    assert facts(got) == original
    assert frames(got, [1]) == frames(path.read_bytes(), [1])
    async with database.transaction() as conn:
        assert await instances.arrivals(conn, 10) == (original.study_instance_uid,)


async def test_the_data_set_is_kept_byte_for_byte(listen: Listen, database: Database, blobs: LocalBlobs) -> None:
    dataset = mr()
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    assert store(listen(), dataset).Status == 0x0000
    got = await stored(database, blobs, dataset.SOPInstanceUID)
    sent = buffer.getvalue()
    assert got[data_set_start(got) :] == sent[data_set_start(sent) :]


def test_dcmsend_is_served(listen: Listen) -> None:
    sent = dcmtk("dcmsend", "127.0.0.1", str(listen().port), DATA / "sr_document.dcm")
    assert sent.returncode == 0, sent.stderr


async def test_a_sop_class_that_nobody_knows_is_stored(listen: Listen, database: Database, blobs: LocalBlobs) -> None:
    dataset = mr(SOPClassUID="1.2.826.0.1.3680043.9.9999.1", SOPInstanceUID="1.2.3.4")
    assert store(listen(), dataset).Status == 0x0000
    assert await stored(database, blobs, "1.2.3.4")


def test_what_is_no_storage_or_of_an_unknown_transfer_syntax_is_not_negotiated(listen: Listen) -> None:
    find = "1.2.840.10008.5.1.4.1.2.2.1"
    association = associate(listen(), (find, ImplicitVRLittleEndian), (MR, "1.2.3.4.5"), (MR, ExplicitVRLittleEndian))
    results = {cx.abstract_syntax: cx.result for cx in association.rejected_contexts}
    association.release()
    assert results == {find: 0x03, MR: 0x04}
    assert [cx.transfer_syntax for cx in association.accepted_contexts] == [[ExplicitVRLittleEndian]]


async def test_the_same_again_is_a_success_and_other_bytes_are_a_duplicate(
    listen: Listen, database: Database, blobs: LocalBlobs
) -> None:
    listener = listen()
    assert store(listener, mr()).Status == 0x0000
    assert store(listener, mr()).Status == 0x0000
    response = store(listener, mr(PatientID="OTHER"))
    assert response.Status == 0x0111
    assert response.ErrorComment.startswith("another data set is stored")
    assert await refusals(database) == [("conflict", "MODALITY")]


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID"])
async def test_a_missing_uid_cannot_be_understood_and_is_named(
    listen: Listen, database: Database, blobs: LocalBlobs, keyword: str
) -> None:
    dataset = mr()
    delattr(dataset, keyword)
    response = store(listen(), dataset)
    assert response.Status == 0xC000
    assert keyword in response.ErrorComment
    assert await refusals(database) == [("invalid", "MODALITY")]


def test_a_command_that_names_another_instance_does_not_match(listen: Listen, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = pynetdicom_encode()
    monkeypatch.setattr("pynetdicom.association.encode", lambda dataset, *how: encode(mr(), *how))
    assert store(listen(), mr(SOPInstanceUID="1.2.3")).Status == 0xA900


def pynetdicom_encode() -> Callable[..., bytes | None]:
    from pynetdicom.dsutils import encode

    return encode


@pytest.mark.parametrize("body", [b"\0\0", b"\x08\x00\x16\x00UI\x1a\x001.2.840", b"not DICOM at all, but rather long"])
def test_a_truncated_or_garbled_data_set_cannot_be_understood(
    listen: Listen, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    monkeypatch.setattr("pynetdicom.association.encode", lambda *_: body)
    association = associate(listen())
    response = association.send_c_store(mr())
    association.release()
    assert response.Status == 0xC000


async def test_a_bad_instance_does_not_hold_up_the_next(listen: Listen, database: Database, blobs: LocalBlobs) -> None:
    association = associate(listen())
    bad = mr(SOPInstanceUID="1.2.3")
    del bad.StudyInstanceUID
    assert association.send_c_store(bad).Status == 0xC000
    assert association.send_c_store(mr()).Status == 0x0000
    association.release()


def test_a_database_that_is_down_is_out_of_resources_and_the_same_succeeds_later(
    listen: Listen, database_url: str
) -> None:
    down = SyncDatabase(database_url.replace("/test_", "/absent_"), wait_s=0.3)
    down.pool.open(wait=False)
    response = store(listen(database=down), mr())
    down.close()
    assert response.Status == 0xA700
    assert store(listen(), mr()).Status == 0x0000


def test_a_full_disk_is_out_of_resources_and_the_same_succeeds_when_there_is_space(
    listen: Listen, blobs: LocalBlobs, full_disk: Callable[[], None]
) -> None:
    listener = listen()
    response = store(listener, mr())
    assert response.Status == 0xA700
    full_disk()
    assert store(listener, mr()).Status == 0x0000


@pytest.fixture
def full_disk(blobs: LocalBlobs) -> Iterator[Callable[[], None]]:
    """A real file system of 64 KiB under the blobs, filled; calling it makes space. Needs the right to mount."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", blobs.root], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("no right to mount a small file system")
    try:
        filler = blobs.root / "filler"
        with pytest.raises(OutOfSpace):
            blobs.put("filler", bytes(128 * 1024))
        filler.write_bytes(bytes(60 * 1024))
        yield filler.unlink
    finally:
        subprocess.run(["umount", blobs.root], check=True)


def test_a_sender_that_dies_within_an_instance_leaves_nothing(
    listen: Listen, sync_database: SyncDatabase, blobs: LocalBlobs
) -> None:
    listener = listen()
    sent = b""
    done = threading.Event()

    def relay() -> None:
        """Passes on the first 6000 bytes of an association, then hangs up."""
        nonlocal sent
        inner, _ = outer.accept()
        server = socket.create_connection(("127.0.0.1", listener.port))
        back = threading.Thread(target=_pump, args=(server, inner), daemon=True)
        back.start()
        while len(sent) < 6000:
            sent += (piece := inner.recv(6000 - len(sent)))
            server.sendall(piece)
        for connection in (server, inner):
            connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        done.set()

    with socket.create_server(("127.0.0.1", 0)) as outer:
        thread = threading.Thread(target=relay)
        thread.start()
        dcmtk("storescu", "127.0.0.1", str(outer.getsockname()[1]), DATA / "syntaxes/MR_small.dcm")
        assert done.wait(10)
        thread.join()
    time.sleep(0.2)
    with sync_database.transaction() as conn:
        assert conn.execute("SELECT count(*) FROM instance").fetchone() == (0,)
    assert blob_count(blobs) == 0
    assert dcmtk("echoscu", "127.0.0.1", str(listener.port)).returncode == 0


def _pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while piece := source.recv(4096):
            target.sendall(piece)
    except OSError:
        return


def test_a_pdu_beyond_all_measure_closes_the_connection(listen: Listen) -> None:
    listener = listen()
    with socket.create_connection(("127.0.0.1", listener.port), timeout=10) as peer:
        peer.sendall(struct.pack(">BBL", 0x01, 0, 0xFFFFFFF0))
        assert peer.recv(1) == b""
    assert dcmtk("echoscu", "127.0.0.1", str(listener.port)).returncode == 0


def test_an_instance_beyond_the_limit_ends_its_association(listen: Listen, sync_database: SyncDatabase) -> None:
    listener = listen(limit_bytes=100_000)
    sent = dcmtk("storescu", "-xd", "127.0.0.1", str(listener.port), DATA / "syntaxes/CT_deflated.dcm")
    assert sent.returncode != 0
    with sync_database.transaction() as conn:
        assert conn.execute("SELECT count(*) FROM instance").fetchone() == (0,)
    assert dcmtk("storescu", "127.0.0.1", str(listener.port), DATA / "syntaxes/MR_small.dcm").returncode == 0


def test_who_is_not_on_the_allow_list_is_rejected(listen: Listen) -> None:
    heard: list[tuple[str, str]] = []
    listener = listen(
        allow=[AllowedPeer(ip_network("127.0.0.0/8"), "MODALITY"), AllowedPeer(ip_network("10.0.0.0/8"))],
        turned_away=lambda *told: heard.append(told),
    )
    stranger = associate(listener, ae_title="STRANGER")
    assert stranger.is_rejected
    assert heard == [("127.0.0.1", "calling AE title or address not in the allow-list")]
    friend = associate(listener, ae_title="MODALITY")
    assert friend.is_established
    friend.release()


@pytest.mark.parametrize(
    ("address", "ae_title", "admitted"),
    [
        ("10.1.2.3", "CT1", True),
        ("::ffff:10.1.2.3", "CT1", True),
        ("10.1.2.3", "CT2", False),
        ("192.168.1.1", "CT1", False),
        ("fe80::1%eth0", "CT1", False),
        ("192.168.1.1", "ANYWHERE", True),
    ],
)
def test_an_ae_title_is_bound_to_its_network(address: str, ae_title: str, admitted: bool) -> None:
    allow = [AllowedPeer(ip_network("10.0.0.0/8"), "CT1"), AllowedPeer(ae_title="ANYWHERE")]
    assert is_admitted(allow, address, ae_title) is admitted
    assert is_admitted([], address, ae_title)


def test_beyond_the_limit_of_associations_a_peer_is_told_to_come_back(listen: Listen) -> None:
    listener = listen(max_associations=1)
    first = associate(listener)
    second = associate(listener)
    assert second.is_rejected
    assert second.acceptor.primitive is not None
    assert second.acceptor.primitive.result == 0x02
    first.release()


def test_the_first_instance_of_a_study_and_each_refusal_are_audited_with_it(
    listen: Listen, sync_database: SyncDatabase
) -> None:
    heard: list[tuple[str, str, bool]] = []

    def audit(conn: SyncConnection, event: DimseEvent) -> None:
        rows = conn.execute("SELECT count(*) FROM instance").fetchone()
        heard.append((event.kind, event.reason, rows == (1,)))

    association = associate(listen(audit=audit))
    association.send_c_store(mr())
    association.send_c_store(mr(PatientID="OTHER"))
    association.send_c_store(mr(SOPInstanceUID="1.2.3"))
    association.release()
    assert heard == [("received", "", True), ("refused", "conflict", True)]


def test_a_sender_with_nagle_is_not_slowed_by_delayed_acknowledgements(listen: Listen, tmp_path: Path) -> None:
    for number in range(100):
        dataset = mr(SOPInstanceUID=f"1.2.3.{number}")
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.save_as(tmp_path / f"{number}.dcm")
    environment = {key: value for key, value in os.environ.items() if key != "TCP_NODELAY"}
    command = ["storescu", "+sd", "127.0.0.1", str(listen().port), str(tmp_path)]
    took: list[float] = []
    for _ in range(3):
        began = time.monotonic()
        subprocess.run(command, env=environment, check=True, timeout=60)
        took.append(time.monotonic() - began)
    assert min(took) < 100 * 0.04


def test_tls_is_spoken_and_a_silent_caller_does_not_hold_up_the_next(listen: Listen, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
            "-keyout",
            key,
            "-out",
            certificate,
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = listen(tls=context)
    with socket.create_connection(("127.0.0.1", listener.port)):
        sent = dcmtk(
            "storescu",
            "+tla",
            "+cf",
            certificate,
            "-xe",
            "127.0.0.1",
            str(listener.port),
            DATA / "syntaxes/MR_small.dcm",
        )
    assert sent.returncode == 0, sent.stderr


def test_dcmtk_needs_a_certificate_where_it_is_required_and_new_files_hold_for_new_associations(
    listen: Listen, tmp_path: Path
) -> None:
    authority, clients = Authority(tmp_path), Authority(tmp_path, "clients")
    own, known, stranger = authority.issue("server"), clients.issue("known"), authority.issue("stranger")
    heard: list[str] = []
    listener = listen(
        tls=server_context(ServerTls(own.certificate, own.key, clients.certificate)),
        turned_away=lambda _, why: heard.append(why),
    )

    def sent(*identity: str | Path, trusted: Authority = authority) -> bool:
        where = ("127.0.0.1", str(listener.port), DATA / "syntaxes/MR_small.dcm")
        return dcmtk("storescu", *identity, "+cf", trusted.certificate, "-xe", *where).returncode == 0

    assert sent("+tls", known.key, known.certificate)
    assert not sent("+tla")
    assert not sent("+tls", stranger.key, stranger.certificate)
    assert heard == [
        "TLS handshake failed: peer did not return a certificate",
        "TLS handshake failed: certificate verify failed",
    ]

    later = Authority(tmp_path, "later")
    later.issue("server", into=own)
    assert sent("+tls", known.key, known.certificate, trusted=later)
    assert not sent("+tls", known.key, known.certificate)


def test_a_port_in_use_is_a_setting_to_mend(listen: Listen, sync_database: SyncDatabase, blobs: LocalBlobs) -> None:
    taken = DicomListener("WETREAD", "127.0.0.1", listen().port, sync_database, blobs)
    with pytest.raises(Misconfigured, match="cannot listen"):
        taken.start()


def test_stopping_lets_the_instance_in_hand_end(listen: Listen, sync_database: SyncDatabase) -> None:
    begun = threading.Event()

    def slow(conn: SyncConnection, event: DimseEvent) -> None:
        begun.set()
        conn.execute("SELECT pg_sleep(0.4)")

    listener = listen(audit=slow)
    association = associate(listener)
    sender = threading.Thread(target=association.send_c_store, args=(mr(),))
    sender.start()
    assert begun.wait(5)
    listener.stop(grace_s=0.1)
    sender.join()
    with sync_database.transaction() as conn:
        assert conn.execute("SELECT count(*) FROM instance").fetchone() == (1,)
