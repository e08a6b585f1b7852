"""Sends instances to an archive: C-STORE as SCU (pynetdicom), STOW-RS as user agent (dicomweb-client).

Both are sync; callers hop to a thread. Sending the same again is safe: an archive knows an instance by its UID.
"""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pydicom
import requests
from dicomweb_client.web import DICOMwebClient
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pynetdicom import AE, _config, evt
from pynetdicom.presentation import PresentationContext, build_context
from requests.adapters import HTTPAdapter

from wetread.errors import Misconfigured, PeerUnavailable, Refused
from wetread.wire.dicom import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, read
from wetread.wire.tls import ClientTls, client_contexts

logger = logging.getLogger(__name__)

_MOST_CONTEXTS = 128
"""Of one association: context ids are the odd numbers below 256 (PS3.8 9.3.2.2)."""
_UNCOMPRESSED = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian)
_PASSING_HTTP = (408, 425, 429, 500, 502, 503, 504, 507)


class RefusedByArchive(Refused):
    """The archive will not take an instance, however often it is sent. `status` is its DIMSE status or failure reason
    (PS3.4 B.2.3, PS3.18 I.2.2), the result of a rejected association, or an HTTP status."""

    code = "refused-by-peer"
    http_status = 502

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class _Item:
    dataset: pydicom.Dataset
    sop_class_uid: str
    transfer_syntax_uid: str


def send(
    data: Sequence[bytes],
    *,
    host: str,
    port: int,
    called_ae: str,
    calling_ae: str,
    timeout_s: float,
    tls: ssl.SSLContext | None = None,
) -> None:
    """Sends Part 10 files by C-STORE, each in its own transfer syntax, and returns when all are accepted.

    An uncompressed instance goes in Implicit VR Little Endian where the archive takes nothing else (PS3.5 10.1).
    `timeout_s` is the longest wait for any one answer. Raises PeerUnavailable when the archive cannot be reached, is
    out of resources or falls silent, and, after all others were sent, RefusedByArchive when it refused one for good.
    """
    items = [_item(one) for one in data]
    refusals: list[RefusedByArchive] = []
    for contexts, part in _associations(items):
        refusals += _send_on_one_association(
            contexts,
            part,
            host=host,
            port=port,
            called_ae=called_ae,
            calling_ae=calling_ae,
            timeout_s=timeout_s,
            tls=tls,
        )
    if refusals:
        raise refusals[0]


def stow(
    data: Sequence[bytes],
    *,
    url: str,
    headers: Mapping[str, str],
    timeout_s: float,
    tls: ssl.SSLContext | None = None,
) -> None:
    """Stores Part 10 files by STOW-RS (PS3.18 10.5) at the DICOMweb root `url`; `headers` carry the credential.

    Without `tls` an https URL is called by the system's authorities and TLS 1.3.

    Raises like `send`.
    """
    session = requests.Session()
    session.trust_env = False
    if url.startswith("https:"):
        session.mount("https://", _Over(tls or client_contexts(ClientTls())()))
    try:
        # A body over the chunk size goes chunked, which not every archive takes.
        client = DICOMwebClient(url, session=session, headers=dict(headers), timeout=timeout_s, chunk_size=2**31)
        client.set_http_retry_params(retry=False)
    except ValueError as error:
        raise Misconfigured(
            "the archive's DICOMweb URL cannot be read; it should look like https://host/dicom-web"
        ) from error
    try:
        response = client.store_instances([_item(one).dataset for one in data])
    except requests.HTTPError as error:
        status = error.response.status_code if error.response is not None else 500
        if status in _PASSING_HTTP:
            raise PeerUnavailable(f"the archive answered HTTP {status}") from error
        raise RefusedByArchive(f"the archive answered HTTP {status}", status=status) from error
    except (requests.RequestException, OSError) as error:
        raise PeerUnavailable(f"the archive cannot be reached: {type(error).__name__}") from error
    finally:
        session.close()
    failed = response.get("FailedSOPSequence") or []
    for item in failed:
        reason = int(item.get("FailureReason", 0x0110))
        if not _is_passing(reason):
            raise RefusedByArchive(f"the archive refused an instance with failure reason {reason:04X}", status=reason)
    if failed:
        raise PeerUnavailable("the archive could not store every instance now")


class _Over(HTTPAdapter):
    """HTTPS by a context of ours, to which requests would add the public authorities."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **named: Any) -> None:
        super().init_poolmanager(*arguments, **named, ssl_context=self._context)

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        conn.cert_reqs = "CERT_REQUIRED"


def _item(data: bytes) -> _Item:
    dataset = read(data)
    return _Item(dataset, str(dataset.SOPClassUID), str(dataset.file_meta.TransferSyntaxUID))


def _associations(items: Sequence[_Item]) -> Iterator[tuple[list[PresentationContext], list[_Item]]]:
    """The items, cut where they need more presentation contexts than one association can have."""
    contexts: dict[tuple[str, str], PresentationContext] = {}
    part: list[_Item] = []
    for item in items:
        # One transfer syntax in each context: the archive then cannot choose one that we would have to transcode to.
        syntaxes = {item.transfer_syntax_uid}
        if item.transfer_syntax_uid in _UNCOMPRESSED:
            syntaxes.add(str(ImplicitVRLittleEndian))
        new = {
            (item.sop_class_uid, syntax): build_context(item.sop_class_uid, syntax)
            for syntax in sorted(syntaxes)
            if (item.sop_class_uid, syntax) not in contexts
        }
        if len(contexts) + len(new) > _MOST_CONTEXTS:
            yield list(contexts.values()), part
            contexts, part = {}, []
            new = {(item.sop_class_uid, s): build_context(item.sop_class_uid, s) for s in sorted(syntaxes)}
        contexts |= new
        part.append(item)
    if part:
        yield list(contexts.values()), part


def _send_on_one_association(
    contexts: list[PresentationContext],
    items: Sequence[_Item],
    *,
    host: str,
    port: int,
    called_ae: str,
    calling_ae: str,
    timeout_s: float,
    tls: ssl.SSLContext | None,
) -> list[RefusedByArchive]:
    _config.LOG_HANDLER_LEVEL = "none"
    entity = _Entity(calling_ae)
    entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = timeout_s
    association: Any = entity.associate(
        host,
        port,
        contexts=contexts,
        ae_title=called_ae,
        tls_args=(tls, host) if tls else None,
        evt_handlers=[(evt.EVT_CONN_OPEN, _without_delay)],
    )
    if not association.is_established:
        entity.close_socket()
        raise _no_association(association)
    leave_answers(association)
    try:
        return [refusal for item in items if (refusal := _store(association, item)) is not None]
    finally:
        if association.is_established:
            association.release()
        entity.close_socket()


def leave_answers(association: Any) -> None:
    """Puts an answer that pynetdicom's reactor takes back for who waits for it. Let go after one request, the reactor
    may come to look for the peer's requests only when the next has been sent, and takes what answers that."""
    serve = association._serve_request

    def served(message: Any, context_id: int) -> None:
        if message.is_valid_response:
            association.dimse.msg_queue.put((context_id, message))
        else:
            serve(message, context_id)

    association._serve_request = served


class _Entity(AE):
    """Closes the socket of a connection that was refused or lost, which pynetdicom forgets: the plain one, or the one
    that TLS was begun on."""

    _created: tuple[Any, Any] | None = None

    def _create_socket(self, *arguments: Any) -> Any:
        wrapped: Any = super()._create_socket(*arguments)
        self._created = wrapped, wrapped.socket
        wrapped.recv = partial(_received, wrapped, wrapped.recv)
        return wrapped

    def close_socket(self) -> None:
        if self._created is not None:
            wrapped, plain = self._created
            plain.close()
            if wrapped.socket is not None:
                wrapped.socket.close()


def _received(wrapped: Any, receive: Callable[[int], bytearray], size_bytes: int) -> bytearray:
    """An archive with Nagle on holds the second half of its answer until we acknowledge the first, 40 ms each time,
    unless quick acknowledgement is armed before every read (the kernel takes it away)."""
    wrapped.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
    return receive(size_bytes)


def _store(association: Any, item: _Item) -> RefusedByArchive | None:
    try:
        response = association.send_c_store(item.dataset)
    except ValueError as error:
        logger.debug("no presentation context: %s", error)
        return RefusedByArchive("the archive takes no such SOP class in this transfer syntax", status=0x0122)
    except RuntimeError as error:
        raise PeerUnavailable("the archive ended the association before everything was sent") from error
    if "Status" not in response:
        raise PeerUnavailable("the archive did not answer a C-STORE in time, or ended the association")
    status = int(response.Status)
    if status == 0x0000 or status & 0xF000 == 0xB000:
        return None
    if _is_passing(status):
        raise PeerUnavailable(f"the archive cannot store now: DIMSE status {status:04X}")
    return RefusedByArchive(f"the archive refused an instance with DIMSE status {status:04X}", status=status)


def _is_passing(status: int) -> bool:
    """Out of resources (A7xx, 0213) or a processing failure (0110): the same may succeed later (PS3.7 annex C)."""
    return status & 0xFF00 == 0xA700 or status in (0x0110, 0x0213)


def _no_association(association: Any) -> RefusedByArchive | PeerUnavailable:
    if association.is_rejected:
        answer = association.acceptor.primitive
        if answer is not None and answer.result == 0x01:
            return RefusedByArchive(
                "the archive rejects the association for good; check the AE titles on both sides",
                status=answer.diagnostic,
            )
        return PeerUnavailable("the archive rejects the association for now")
    if association.acceptor.primitive is not None and association.acceptor.primitive.result == 0x00:
        return RefusedByArchive("the archive takes none of the SOP classes and transfer syntaxes", status=0x0122)
    return PeerUnavailable("the archive does not answer")


def _without_delay(event: Any) -> None:
    """No Nagle: it would wait 40 ms for an acknowledgement at the end of each instance."""
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
