"""The DICOM listener: C-ECHO, performed procedure steps, and C-STORE of any storage SOP class, byte for byte.

pynetdicom speaks the upper layer, in threads of its own; one association, one thread. A C-STORE is answered with 0000
after the blob is flushed and the index row is committed, and never before.
"""

from __future__ import annotations

import logging
import socket
import socketserver
import ssl
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from pydicom.dataset import Dataset
from pynetdicom import AE, _config, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.transport import ThreadedAssociationServer

from wetread.archive import quarantine
from wetread.archive.instances import store
from wetread.errors import InvalidInput, Misconfigured, TooLarge, WetreadError
from wetread.inbound.dicom_mpps import PerformedSteps
from wetread.inbound.dicom_negotiation import VERIFICATION, AllowedPeer, granted, is_admitted
from wetread.inbound.dicom_transport import attend
from wetread.inbound.tls_server import TurnedAway, told, untold
from wetread.store.blobs import LocalBlobs
from wetread.store.database import SyncConnection, SyncDatabase
from wetread.wire.dicom import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, facts, part10_header

logger = logging.getLogger(__name__)

_PDU_BYTES = 128 * 1024
_LAST_INSTANCE_S = 30.0
"""How long an instance in hand may take to be stored when we stop; its sender may not hear of it and sends again."""
_HANDSHAKE_S = 10.0
_SUCCESS = 0x0000
_PROCESSING_FAILURE = 0x0110
_C_STORE_RQ = 0x0001
_NO_DATA_SET = 0x0101
"""Command Field and Command Data Set Type (PS3.7 9.3.1.1, E.1)."""


class _Mismatch(InvalidInput):
    """The command names another instance than the data set does (PS3.4 table B.2-1)."""

    dimse_status = 0xA900


@dataclass(frozen=True, slots=True)
class DimseEvent:
    """What an auditor is told. `received`: the first instance of a study on an association; `refused`: an instance that
    was not stored, with the error's code as the reason."""

    kind: Literal["received", "refused"]
    calling_ae: str
    called_ae: str
    address: str
    study_instance_uid: str = ""
    reason: str = ""


Audit = Callable[[SyncConnection, DimseEvent], None]
"""Writes the audit row in the transaction that it is handed: for `received`, that of the instance itself."""

_Event: TypeAlias = Any
"""pynetdicom's Event; which attributes it has depends on the event."""


class DicomListener:
    """Listens on one address. `port` 0 takes a free one, which `port` then tells.

    `allow` admits peers by network and AE title, empty admits all; `turned_away` is told, from threads, of whom it does
    not admit and of those whose TLS handshake failed. Beyond `max_associations` a peer is told to come back later. With
    `share_port` several processes of this user may listen on the same port. An association that says nothing for
    `idle_timeout_s` is closed; an instance beyond `limit_bytes` closes it. The database's pool should hold a connection
    for each association that may store at once.
    """

    def __init__(
        self,
        ae_title: str,
        host: str,
        port: int,
        database: SyncDatabase,
        blobs: LocalBlobs,
        *,
        allow: Sequence[AllowedPeer] = (),
        max_associations: int = 32,
        idle_timeout_s: float = 60.0,
        share_port: bool = False,
        limit_bytes: int = 1024 * 1024 * 1024,
        tls: ssl.SSLContext | None = None,
        audit: Audit | None = None,
        turned_away: TurnedAway = untold,
    ) -> None:
        self.host = host
        self.port = port
        self._database = database
        self._blobs = blobs
        self._allow = tuple(allow)
        self._limit_bytes = limit_bytes
        self._idle_timeout_s = idle_timeout_s
        self._tls = tls
        self._audit = audit
        self._turned_away = turned_away
        self._steps = PerformedSteps(database)
        self._share_port = share_port
        self._ae = AE(ae_title)
        self._ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        self._ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        self._ae.maximum_pdu_size = _PDU_BYTES
        self._ae.maximum_associations = max_associations
        self._ae.network_timeout = idle_timeout_s
        self._ae.add_supported_context(VERIFICATION)
        self._server: ThreadedAssociationServer | None = None
        self._thread: threading.Thread | None = None
        self._in_hand = 0
        self._idle = threading.Condition()

    def start(self) -> None:
        """Raises Misconfigured when the address cannot be had."""
        # Process-wide in pynetdicom: its standard handlers format every PDU for a log that nobody reads.
        _config.LOG_HANDLER_LEVEL = "none"
        try:
            self._server = self._ae.make_server(
                (self.host, self.port),
                evt_handlers=[
                    (evt.EVT_CONN_OPEN, self._on_open),
                    (evt.EVT_REQUESTED, self._on_requested),
                    (evt.EVT_PDU_RECV, self._on_pdu),
                    (evt.EVT_DIMSE_RECV, self._on_message),
                    (evt.EVT_C_ECHO, self._on_echo),
                    (evt.EVT_C_STORE, self._on_store),
                    (evt.EVT_N_CREATE, self._steps.on_create),
                    (evt.EVT_N_SET, self._steps.on_set),
                ],
                server_class=_SharingServer if self._share_port else _Server,
                ssl_context=self._tls,
            )
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise Misconfigured(
                f"DICOM cannot listen on {self.host}:{self.port}: {reason}. Choose another address or port."
            ) from None
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.25,), name="dicom", daemon=True)
        self._thread.start()

    def stop(self, *, grace_s: float = 5.0) -> None:
        """Takes no more associations; lets those at work end for `grace_s`, then hangs up."""
        if self._server is None or self._thread is None:
            return
        server, self._server = self._server, None
        server.shutdown()
        self._thread.join()
        deadline = time.monotonic() + grace_s
        while server.active_associations and time.monotonic() < deadline:
            time.sleep(0.05)
        for association in server.active_associations:
            _hang_up(association)
        with self._idle:
            self._idle.wait_for(lambda: self._in_hand == 0, _LAST_INSTANCE_S)

    def _on_open(self, event: _Event) -> None:
        attend(event.assoc, self._idle_timeout_s)
        connection = event.assoc.dul.socket.socket
        if isinstance(connection, ssl.SSLSocket):
            self._greet(event.assoc, connection)

    def _greet(self, association: Any, connection: ssl.SSLSocket) -> None:
        """The TLS handshake, in the association's own thread."""
        try:
            connection.settimeout(_HANDSHAKE_S)
            connection.do_handshake()
            connection.settimeout(self._idle_timeout_s)
        except (ConnectionResetError, BrokenPipeError, ssl.SSLEOFError):
            _hang_up(association)  # as probes do that only look whether somebody listens
        except OSError as error:
            self._turned_away(association.requestor.address, f"TLS handshake failed: {told(error)}")
            _hang_up(association)

    def _on_requested(self, event: _Event) -> None:
        association = event.assoc
        request = association.requestor.primitive
        if is_admitted(self._allow, association.requestor.address, request.calling_ae_title.strip()):
            association.acceptor.supported_contexts = granted(request.presentation_context_definition_list)
            return
        calling, _, address = _parties(association)
        logger.warning("DICOM: turned %s at %s away, it is not in the allow-list", calling, address)
        self._turned_away(address, "calling AE title or address not in the allow-list")
        association.acse.send_reject(0x01, 0x01, 0x03)
        association.kill()

    def _on_pdu(self, event: _Event) -> None:
        message = event.assoc.dimse.message
        if message is not None and message.data_set is not None and message.data_set.tell() > self._limit_bytes:
            logger.warning("DICOM: an instance of more than %d bytes; association closed", self._limit_bytes)
            _hang_up(event.assoc)

    def _on_message(self, event: _Event) -> None:
        """Refuses a C-STORE without a data set, which pynetdicom would drop and leave its sender waiting."""
        command = event.message.command_set
        if command.get("CommandField") != _C_STORE_RQ or command.CommandDataSetType != _NO_DATA_SET:
            return
        error = InvalidInput("the C-STORE carries no data set; the file is empty or was cut off")
        uid = str(command.get("AffectedSOPInstanceUID", ""))
        response = C_STORE()
        response.MessageIDBeingRespondedTo = command.MessageID
        response.AffectedSOPClassUID = command.get("AffectedSOPClassUID")
        response.AffectedSOPInstanceUID = uid
        response.Status = error.dimse_status
        self._keep_refused(b"", error, _parties(event.assoc), uid)
        event.assoc.dimse.send_msg(response, event.message.context_id)

    def _on_echo(self, event: _Event) -> int:
        return _SUCCESS

    def _on_store(self, event: _Event) -> int | Dataset:
        with self._idle:
            self._in_hand += 1
        try:
            return self._answer(event)
        finally:
            with self._idle:
                self._in_hand -= 1
                self._idle.notify_all()

    def _answer(self, event: _Event) -> int | Dataset:
        """PS3.4 B.2.3; a refusal is kept in quarantine."""
        request = event.request
        parties = _parties(event.assoc)
        sop_instance_uid = str(request.AffectedSOPInstanceUID)
        header = part10_header(
            sop_class_uid=str(request.AffectedSOPClassUID),
            sop_instance_uid=sop_instance_uid,
            transfer_syntax_uid=str(event.context.transfer_syntax),
            source_ae=parties[0],
        )
        data = b"".join((header, request.DataSet.getvalue() if request.DataSet else b""))
        try:
            self._store(data, event, parties)
        except WetreadError as error:
            self._keep_refused(data, error, parties, sop_instance_uid)
            return _status(error.dimse_status, error.message)
        except Exception as error:
            # Its message may hold patient data, and so may the values in its frames.
            places = "".join(traceback.format_tb(error.__traceback__))
            logger.error("DICOM: C-STORE failed with %s\n%s", type(error).__name__, places)
            return _status(_PROCESSING_FAILURE, "internal error; see the log")
        return _SUCCESS

    def _store(self, data: bytes, event: _Event, parties: tuple[str, str, str]) -> None:
        if len(data) > self._limit_bytes:
            raise TooLarge(f"an instance holds at most {self._limit_bytes} bytes")
        found = facts(data)
        if found.sop_instance_uid != str(event.request.AffectedSOPInstanceUID).strip(" \0"):
            raise _Mismatch("command and data set differ in SOPInstanceUID", location="SOPInstanceUID")
        if found.sop_class_uid != str(event.request.AffectedSOPClassUID).strip(" \0"):
            raise _Mismatch("command and data set differ in SOPClassUID", location="SOPClassUID")
        studies: set[str] = event.assoc.__dict__.setdefault("wetread_studies", set())
        with self._database.transaction() as conn:
            store(conn, self._blobs, found, data, source=parties[0])
            if self._audit is not None and found.study_instance_uid not in studies:
                self._audit(conn, DimseEvent("received", *parties, found.study_instance_uid))
        studies.add(found.study_instance_uid)

    def _keep_refused(
        self, data: bytes, error: WetreadError, parties: tuple[str, str, str], sop_instance_uid: str
    ) -> None:
        try:
            with self._database.transaction() as conn:
                quarantine.refuse(conn, self._blobs, data, error, source=parties[0], sop_instance_uid=sop_instance_uid)
                if self._audit is not None:
                    self._audit(conn, DimseEvent("refused", *parties, reason=error.code))
        except WetreadError as another:
            logger.error("DICOM: refused an instance (%s) and could not keep it (%s)", error.code, another.code)


class _Server(ThreadedAssociationServer):
    """Leaves the TLS handshake to the association's own thread: a silent caller must not hold up the next."""

    request_queue_size = 128
    daemon_threads = True

    def get_request(self) -> tuple[socket.socket, Any]:
        listening: Any = self.socket
        connection, address = listening.accept()
        if self.ssl_context:
            connection = self.ssl_context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def shutdown(self) -> None:
        """Without leaving the AE's list of servers, which only `AE.start_server` puts it in."""
        socketserver.BaseServer.shutdown(self)
        self.server_close()


class _SharingServer(_Server):
    """One of several processes on one port: the kernel gives each new connection to one of them."""

    def server_bind(self) -> None:
        listening: Any = self.socket
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()


def _hang_up(association: Any) -> None:
    """At once: pynetdicom's own abort waits for a thread that may be waiting for a stalled peer."""
    wrapped = association.dul.socket
    connection = wrapped.socket if wrapped is not None else None
    if connection is not None:
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


def _parties(association: Any) -> tuple[str, str, str]:
    """Calling AE title, called AE title, address of the caller."""
    request = association.requestor.primitive
    return request.calling_ae_title.strip(), request.called_ae_title.strip(), association.requestor.address


def _status(status: int, comment: str) -> Dataset:
    """With Error Comment (0000,0902), which is LO: 64 characters."""
    response = Dataset()
    response.Status = status
    response.ErrorComment = comment.replace("\\", "/")[:64]
    return response
