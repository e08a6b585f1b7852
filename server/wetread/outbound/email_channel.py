"""The email channel: a few words that say that something is there, never what (Backport IG 1.1 channels.html#email).

Mail is neither secret nor sure to arrive at a person, so a resource never goes by it: the content is empty or id-only.
"""

from __future__ import annotations

import asyncio
import functools
import smtplib
import ssl
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Literal

from wetread.errors import PeerUnavailable, Refused
from wetread.record.subscriptions.delivery import Delivery
from wetread.record.subscriptions.notifications import notification
from wetread.wire.tls import Contexts

_PERMANENT = range(500, 600)
_AT_ONCE = 8
"""Connections to the relay; it may have a limit of its own."""


class RefusedByRelay(Refused):
    """The relay answered with 5xx, or the recipient is none that the operator allows."""

    code = "refused-by-peer"
    http_status = 502


@dataclass(frozen=True, slots=True)
class Relay:
    """The operator's mail relay. `recipients` are domains, or whole addresses, that mail may go to."""

    host: str
    port: int
    sender: str
    security: Literal["starttls", "tls", "none"]
    recipients: Sequence[str]
    tls: Contexts
    username: str = ""
    password: str = field(default="", repr=False)


class EmailChannel:
    """Close it when done."""

    def __init__(self, relay: Relay, base_url: str) -> None:
        self._relay = relay
        self._base_url = base_url
        # smtplib knows no asyncio, and a client of its own for it would be one dependency more. A relay that hangs
        # takes no thread from others.
        self._threads = ThreadPoolExecutor(_AT_ONCE, "mail")

    async def send(self, delivery: Delivery) -> None:
        """Returns when the relay has taken it. The channel's time limit is for all of it.

        Raises PeerUnavailable and RefusedByRelay.
        """
        recipient = delivery.channel.endpoint.removeprefix("mailto:")
        if not _is_allowed(recipient, self._relay.recipients):
            raise RefusedByRelay("this server may not mail to that address; its operator can add it")
        message = letter(self._relay, self._base_url, delivery)
        timeout_s = delivery.channel.timeout_s
        hand_over = functools.partial(_hand_over, self._relay, recipient, message, timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.get_running_loop().run_in_executor(self._threads, hand_over)
        except TimeoutError as error:
            raise PeerUnavailable(f"no whole answer from the mail relay within {timeout_s:g} s") from error

    def close(self) -> None:
        """Waits for nothing."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def letter(relay: Relay, base_url: str, delivery: Delivery) -> EmailMessage:
    """The same delivery gives the same Message-ID, by which mailboxes know a repetition; each heartbeat has another."""
    url = f"{base_url}/Subscription/{delivery.subscription_id}"
    key = delivery.key or f"{delivery.subscription_id}-{delivery.kind}-{delivery.at:%Y%m%dT%H%M%S.%f}"
    message = EmailMessage()
    message["From"] = relay.sender
    message["To"] = delivery.channel.endpoint.removeprefix("mailto:")
    message["Date"] = format_datetime(delivery.at)
    message["Message-ID"] = f"<{key}@{relay.sender.rpartition('@')[2]}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no answering machine answers it
    message["Subject"] = _SUBJECTS[delivery.kind].format(count=len(delivery.events))
    message.set_content("\n".join(_lines(base_url, url, delivery)) + "\n")
    if "attach=" in delivery.channel.content_type.replace(" ", "").lower():
        bundle = notification(base_url, delivery.kind, delivery.status, delivery.at, delivery.events)
        message.add_attachment(bundle, maintype="application", subtype="fhir+json", filename=f"{key}.json")
    return message


_SUBJECTS = {
    "handshake": "Wetread: a subscription to this address",
    "heartbeat": "Wetread: the subscription is alive",
    "event-notification": "Wetread: {count} new",
}


def _lines(base_url: str, url: str, delivery: Delivery) -> list[str]:
    lines = [f"Subscription: {url}"]
    if delivery.kind == "handshake":
        lines.append("Mail will come to this address for each event. Who did not ask for it tells the operator.")
    for event in delivery.events:
        what = f" {base_url}/{event.focus}" if delivery.channel.content != "empty" and event.is_told else ""
        lines.append(f"Event {event.number}, {event.at:%Y-%m-%d %H:%M:%S %Z}:{what}".rstrip(":"))
    if delivery.events:
        lines.append(f"All events: {url}/$events")
    return lines


def _is_allowed(recipient: str, allowed: Sequence[str]) -> bool:
    address = recipient.lower()
    return any(address == each.lower() or address.rpartition("@")[2] == each.lower() for each in allowed)


def _hand_over(relay: Relay, recipient: str, message: EmailMessage, timeout_s: float) -> None:
    try:
        with _session(relay, timeout_s) as session:
            if relay.username:
                session.login(relay.username, relay.password)
            session.send_message(message, to_addrs=[recipient])
    except smtplib.SMTPRecipientsRefused as error:
        [(code, _)] = error.recipients.values()
        raise _told(code) from None
    except smtplib.SMTPResponseException as error:
        raise _told(error.smtp_code) from None
    except smtplib.SMTPNotSupportedError as error:
        raise PeerUnavailable("the mail relay does not offer what it is asked for: STARTTLS or a login") from error
    except (smtplib.SMTPException, OSError) as error:
        raise PeerUnavailable(f"the mail relay cannot be reached: {type(error).__name__}") from error


def _session(relay: Relay, timeout_s: float) -> smtplib.SMTP:
    if relay.security == "tls":
        return smtplib.SMTP_SSL(relay.host, relay.port, timeout=timeout_s, context=relay.tls())
    session = smtplib.SMTP(relay.host, relay.port, timeout=timeout_s)
    if relay.security == "starttls":
        try:
            session.starttls(context=relay.tls())
        except (smtplib.SMTPException, ssl.SSLError, OSError):
            session.close()
            raise
    return session


def _told(code: int) -> PeerUnavailable | RefusedByRelay:
    """Without what the relay says in words, in which it repeats addresses."""
    if code in _PERMANENT:
        return RefusedByRelay(f"the mail relay answered {code}")
    return PeerUnavailable(f"the mail relay answered {code}; it is tried again")
