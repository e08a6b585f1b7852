"""Makes one pynetdicom acceptor wait for its socket and its queue, where by itself it sleeps and looks again.

pynetdicom 3 moves a message through two threads, each of which sleeps 1 ms before it looks, and reads 4 KiB at a time:
most of the time that an instance takes. `attend` changes one association, through the objects that it is made of:

- the network thread blocks in poll(2) until data are there, at most 1 ms so that a response is not kept waiting;
- the service thread blocks on the message queue;
- a PDU is read with as few calls as the kernel allows, each with quick acknowledgement armed;
- a PDU beyond all measure, and a peer that stalls within one, close the connection.
"""

from __future__ import annotations

import queue
import select
import socket
import ssl
import time
from typing import Any

from pynetdicom.transport import AssociationSocket

_LARGEST_PDU = 16 * 1024 * 1024
"""We announce 128 KiB; a peer that sends more than this in one PDU is not negotiating, it is filling our memory."""
_WAIT_MS = 1
_MESSAGE_WAIT_S = 0.005


def attend(association: Any, idle_timeout_s: float) -> None:
    """To be called when the connection is open and before the first byte is read (EVT_CONN_OPEN)."""
    # Threads that wait for a silent peer must not keep the process alive.
    association.daemon = association.dul.daemon = True
    wrapped = association.dul.socket
    wrapped.socket.settimeout(idle_timeout_s)
    wrapped.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    wrapped.__class__ = _Transport
    association.dul._run_loop_delay = 0

    provider = association.dimse
    take = provider.get_msg

    def get_msg(block: bool = False) -> tuple[Any, Any]:
        if block:
            return take(block=True)  # type: ignore[no-any-return]
        try:
            return provider.msg_queue.get(timeout=_MESSAGE_WAIT_S)  # type: ignore[no-any-return]
        except queue.Empty:
            return None, None

    provider.get_msg = get_msg


class _Transport(AssociationSocket):
    @property
    def ready(self) -> bool:
        connection = self.socket
        if connection is None or not self._is_connected:
            time.sleep(_WAIT_MS / 1000)
            return False
        if isinstance(connection, ssl.SSLSocket) and connection.pending():
            return True
        try:
            poll = select.poll()
            poll.register(connection, select.POLLIN)
            return bool(poll.poll(_WAIT_MS))
        except (OSError, ValueError):
            self.event_queue.put("Evt17")
            return False

    def recv(self, nr_bytes: int) -> bytearray:
        """Exactly so many bytes, or fewer when the peer has closed. Raises OSError, which closes the connection.

        A sender with Nagle on waits for our TCP acknowledgement, 40 ms each time, unless quick acknowledgement is armed
        again before every read (the kernel takes it away).
        """
        if nr_bytes > _LARGEST_PDU:
            raise OSError(f"a PDU of {nr_bytes} bytes was announced")
        connection: Any = self.socket
        buffer = bytearray(nr_bytes)
        filled = 0
        with memoryview(buffer) as view:
            while filled < nr_bytes:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
                read = connection.recv_into(view[filled:])
                if not read:
                    break
                filled += read
        del buffer[filled:]
        return buffer
