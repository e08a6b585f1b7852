"""The NATS channel: notification Bundles published to a JetStream broker, for data platforms (nats.io, the ADRs 4 and
22). The broker has taken one when a stream has stored it; it drops what it has had before, by `Nats-Msg-Id`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wetread.errors import Misconfigured, PeerUnavailable, Refused
from wetread.record.subscriptions.delivery import Delivery
from wetread.record.subscriptions.notifications import notification
from wetread.wire.tls import Contexts

if TYPE_CHECKING:
    from nats.aio.client import Client

logger = logging.getLogger(__name__)


class NoStream(Refused):
    """The broker has no stream for the subject, the stream refuses, or the operator does not allow the subject."""

    code = "refused-by-peer"
    http_status = 502


@dataclass(frozen=True, slots=True)
class Broker:
    """The operator's NATS servers, as `nats://` or `tls://` URLs. `subjects` may be published to: whole ones, or with
    `*` and `>` as NATS means them. `credentials` is a file of the account (JWT and NKey)."""

    servers: Sequence[str]
    subjects: Sequence[str]
    tls: Contexts | None = None
    credentials: Path | None = None


class NatsChannel:
    """Keeps one connection, opened when needed, then with the certificate and credentials that are there. Close it when
    done."""

    def __init__(self, broker: Broker, base_url: str) -> None:
        """Raises Misconfigured where the client is not installed."""
        try:
            import nats
            from nats.aio.client import Client
        except ImportError as error:
            raise Misconfigured("outbound.nats: needs the nats-py client; install wetread[nats]") from error
        self._nats = nats
        self._new: Callable[[], Client] = Client
        self._broker = broker
        self._base_url = base_url
        self._lock = asyncio.Lock()
        self._client: Client | None = None

    async def send(self, delivery: Delivery) -> None:
        """Returns when a stream has stored it. Raises PeerUnavailable and NoStream."""
        subject = delivery.channel.endpoint.removeprefix("nats:")
        if not any(covers(pattern, subject) for pattern in self._broker.subjects):
            raise NoStream("this server may not publish to that subject; its operator can add it")
        body = notification(self._base_url, delivery.kind, delivery.status, delivery.at, delivery.events)
        headers = {"Content-Type": delivery.channel.content_type, "Wetread-Notification": delivery.kind}
        if delivery.key:
            headers["Nats-Msg-Id"] = delivery.key
        await self._publish(subject, body, headers, delivery.channel.timeout_s)

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _publish(self, subject: str, body: bytes, headers: dict[str, str], timeout_s: float) -> None:
        errors, stream_errors = self._nats.errors, self._nats.js.errors
        try:
            async with asyncio.timeout(timeout_s):
                client = await self._connected(timeout_s)
                await client.jetstream().publish(subject, body, timeout=timeout_s, headers=headers)
        except stream_errors.NoStreamResponseError as error:
            raise NoStream(f"the broker has no stream for the subject {subject}") from error
        except errors.MaxPayloadError as error:
            raise NoStream("the notification is larger than the broker takes; ask for less with max-count") from error
        except (stream_errors.ServiceUnavailableError, stream_errors.ServerError) as error:
            raise PeerUnavailable(f"the broker answered {error.code}") from error
        except stream_errors.APIError as error:
            raise NoStream(f"the stream refuses it: {error.code}") from error
        except (errors.Error, OSError, TimeoutError) as error:
            raise PeerUnavailable(f"no answer from the broker: {type(error).__name__}") from error

    async def _connected(self, timeout_s: float) -> Client:
        async with self._lock:
            if self._client is not None and self._client.is_connected:
                return self._client
            # It would come back by itself, but for ever with the certificate that it began with.
            await self.close()
            broker, client = self._broker, self._new()
            try:
                await client.connect(
                    servers=list(broker.servers),
                    name="wetread",
                    connect_timeout=max(1, int(timeout_s)),
                    allow_reconnect=True,
                    max_reconnect_attempts=-1,
                    pending_size=0,
                    tls=broker.tls() if broker.tls is not None else None,
                    user_credentials=str(broker.credentials) if broker.credentials is not None else None,
                    error_cb=_quiet,
                )
            except BaseException:
                await client.close()
                raise
            self._client = client
            return client


async def _quiet(error: Exception) -> None:
    """Told by the deliveries that fail; the client would log each attempt to come back with a traceback."""
    logger.debug("NATS: %s", type(error).__name__)


def covers(pattern: str, subject: str) -> bool:
    """Whether a subject is one of a pattern: `*` stands for one token, `>` at the end for one or more."""
    wanted, given = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        wanted = wanted[:-1]
        if len(given) <= len(wanted):
            return False
        given = given[: len(wanted)]
    return len(wanted) == len(given) and all(w in ("*", g) for w, g in zip(wanted, given, strict=True))
