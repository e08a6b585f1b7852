"""What we send by TLS: only to whom the operator's authority vouches for, with our certificate where a peer asks."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pynetdicom import AE, evt
from pynetdicom.sop_class import MRImageStorage
from tests.certificates import Authority, Pair

from wetread.errors import PeerUnavailable
from wetread.inbound.http import HttpListener
from wetread.inbound.mllp import MllpListener, Received
from wetread.outbound import dicom, mllp
from wetread.wire.tls import ClientTls, Contexts, ServerTls, client_contexts, server_context

MR = (Path(__file__).parents[2] / "data/dicom/syntaxes/MR_small.dcm").read_bytes()
MESSAGE = b"MSH|^~\\&|A|B|C|D|2026||ORU^R01|1|P|2.5\r"
ACK = b"MSH|^~\\&|C|D|A|B|2026||ACK|9|P|2.5\rMSA|AA|1\r"


class Peers:
    """A peer that asks for certificates of `clients`, and who may call it."""

    def __init__(self, folder: Path) -> None:
        self.authority, self.clients = Authority(folder), Authority(folder, "clients")
        server = self.authority.issue("server")
        self.context = server_context(ServerTls(server.certificate, server.key, self.clients.certificate))
        self.known = self._calling(self.authority, self.clients.issue("known"))
        self.not_vouched_for = self._calling(Authority(folder, "others"), self.clients.issue("known too"))
        self.unknown_to_the_peer = self._calling(self.authority, None)

    def _calling(self, authority: Authority, own: Pair | None) -> Contexts:
        return client_contexts(ClientTls(authority.certificate, own and own.certificate, own and own.key))


@pytest.fixture
def peers(tmp_path: Path) -> Peers:
    return Peers(tmp_path)


async def test_a_message(peers: Peers) -> None:
    async def accept(received: Received) -> bytes:
        return ACK

    listener = MllpListener(
        "127.0.0.1", 0, accept, limit_bytes=1000, idle_timeout_s=5, max_connections=4, tls=peers.context
    )
    await listener.start()
    try:
        assert (await mllp.send("127.0.0.1", listener.port, MESSAGE, timeout_s=5, tls=peers.known)).code == "AA"
        for wrong in (peers.not_vouched_for, peers.unknown_to_the_peer, None):
            with pytest.raises(PeerUnavailable):
                await mllp.send("127.0.0.1", listener.port, MESSAGE, timeout_s=5, tls=wrong)
    finally:
        await listener.close(grace_s=1)


def test_an_instance_by_c_store(peers: Peers) -> None:
    stored: list[str] = []

    def store(event: Any) -> int:
        stored.append(str(event.request.AffectedSOPInstanceUID))
        return 0x0000

    archive = AE("ARCHIVE")
    archive.add_supported_context(MRImageStorage)
    server = archive.start_server(
        ("127.0.0.1", 0), block=False, ssl_context=peers.context, evt_handlers=[(evt.EVT_C_STORE, store)]
    )

    def send(tls: ssl.SSLContext | None) -> None:
        port = server.server_address[1]
        where: dict[str, Any] = {"host": "127.0.0.1", "port": port, "called_ae": "ARCHIVE", "calling_ae": "WETREAD"}
        dicom.send([MR], timeout_s=5, tls=tls, **where)

    try:
        send(peers.known())
        for wrong in (peers.not_vouched_for(), peers.unknown_to_the_peer()):
            with pytest.raises(PeerUnavailable):
                send(wrong)
        assert len(stored) == 1
    finally:
        server.shutdown()


@asynccontextmanager
async def storing(context: ssl.SSLContext) -> AsyncIterator[tuple[str, list[int]]]:
    """A DICOMweb root that takes everything, and the sizes of what it took."""
    taken: list[int] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        size, more = 0, True
        while more:
            message = await receive()
            size, more = size + len(message["body"]), message["more_body"]
        taken.append(size)
        headers = [(b"content-type", b"application/dicom+json"), (b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"{}"})

    listener = HttpListener(app, "127.0.0.1", 0, tls=context)
    await listener.start()
    try:
        yield f"https://127.0.0.1:{listener.port}/dicom-web", taken
    finally:
        await listener.close()


async def test_an_instance_by_stow(peers: Peers) -> None:
    async with storing(peers.context) as (url, taken):
        await asyncio.to_thread(dicom.stow, [MR], url=url, headers={}, timeout_s=5, tls=peers.known())
        assert len(peers.known().get_ca_certs()) == 1  # nobody else vouches for the archive
        for wrong in (peers.not_vouched_for(), peers.unknown_to_the_peer(), None):
            with pytest.raises(PeerUnavailable):
                await asyncio.to_thread(dicom.stow, [MR], url=url, headers={}, timeout_s=5, tls=wrong)
    assert len(taken) == 1
    assert taken[0] > len(MR) * 0.9
