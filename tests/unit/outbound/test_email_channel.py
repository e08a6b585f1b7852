"""Mail that says that something is there, handed to a real SMTP server."""

from __future__ import annotations

import asyncio
import email
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session
from tests.certificates import Authority

from wetread.errors import PeerUnavailable
from wetread.outbound.email_channel import EmailChannel, RefusedByRelay, Relay
from wetread.record.subscriptions.channel import Channel
from wetread.wire.tls import ClientTls, ServerTls, client_contexts, server_context

from .notifying import BASE, delivery

CHANNEL = Channel("email", "mailto:ward-3@example.org", "text/plain", "id-only", (), 5)


class Mailbox:
    """What the server took; `says` is its answer to the message, `knows` whether it knows recipients.
    It takes its time before each."""

    def __init__(self) -> None:
        self.taken: list[EmailMessage] = []
        self.recipients: list[str] = []
        self.was_tls: list[bool] = []
        self.says = "250 OK"
        self.knows = "250 OK"
        self.pause_s = 0.0

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        await asyncio.sleep(self.pause_s)
        if self.knows.startswith("250"):
            envelope.rcpt_tos.append(address)
        return self.knows

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        await asyncio.sleep(self.pause_s)
        content = envelope.content
        assert isinstance(content, bytes)
        if self.says.startswith("250"):
            self.taken.append(email.message_from_bytes(content, policy=default))
            self.recipients += envelope.rcpt_tos
            self.was_tls.append(session.ssl is not None)
        return self.says


@asynccontextmanager
async def relaying(mailbox: Mailbox, **how: Any) -> AsyncIterator[int]:
    server = await asyncio.get_running_loop().create_server(lambda: SMTP(mailbox, **how), "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox()


@pytest.fixture
async def relay(mailbox: Mailbox) -> AsyncIterator[Relay]:
    async with relaying(mailbox) as port:
        yield Relay(
            "127.0.0.1", port, "wetread@hospital.example", "none", ["example.org"], client_contexts(ClientTls())
        )


async def test_a_letter_names_the_events_and_where_they_are(mailbox: Mailbox, relay: Relay) -> None:
    sender = EmailChannel(relay, BASE)
    for _ in range(2):
        await sender.send(delivery(CHANNEL, 7))
    first, again = mailbox.taken
    assert mailbox.recipients == ["ward-3@example.org"] * 2
    assert first["Message-ID"] == again["Message-ID"] == "<s1-7@hospital.example>"
    assert (first["From"], first["To"], first["Subject"]) == (
        "wetread@hospital.example", "ward-3@example.org", "Wetread: 1 new",
    )  # fmt: skip
    assert first["Auto-Submitted"] == "auto-generated"
    text = first.get_content()
    assert f"Event 7, 2026-11-22 05:30:07 UTC: {BASE}/Task/t1" in text
    assert f"{BASE}/Subscription/s1/$events" in text


async def test_an_empty_letter_says_not_even_of_what_it_is(mailbox: Mailbox, relay: Relay) -> None:
    await EmailChannel(relay, BASE).send(delivery(replace(CHANNEL, content="empty"), 7))
    text = mailbox.taken[0].get_content()
    assert "Event 7, 2026-11-22 05:30:07 UTC" in text.splitlines()
    assert "Task" not in text


async def test_the_notification_is_attached_where_it_is_asked_for(mailbox: Mailbox, relay: Relay) -> None:
    asked = replace(CHANNEL, content_type="text/plain; attach=application/fhir+json")
    await EmailChannel(relay, BASE).send(delivery(asked, 7, 8))
    [attached] = mailbox.taken[0].iter_attachments()
    assert attached.get_content_type() == "application/fhir+json"
    assert json.loads(attached.get_content())["type"] == "history"
    assert "s1-7-8.json" in str(attached["Content-Disposition"])


@pytest.mark.parametrize("kind", ["handshake", "heartbeat"])
async def test_that_it_is_there_is_told_too_and_again_by_another_letter(
    kind: str, mailbox: Mailbox, relay: Relay
) -> None:
    told = delivery(CHANNEL, kind=kind)
    for each in (told, told, replace(told, at=told.at + timedelta(minutes=5))):
        await EmailChannel(relay, BASE).send(each)
    first, repeated, later = mailbox.taken
    assert "subscription" in first["Subject"]
    assert first["Message-ID"] == repeated["Message-ID"] != later["Message-ID"]


def _says(code: int) -> Callable[[Mailbox], None]:
    return lambda mailbox: setattr(mailbox, "says", f"{code} ward-3@example.org is full")


def _knows(code: int) -> Callable[[Mailbox], None]:
    return lambda mailbox: setattr(mailbox, "knows", f"{code} ward-3@example.org is nobody")


@pytest.mark.parametrize(
    ("does", "error"),
    [
        (_says(451), PeerUnavailable),
        (_says(554), RefusedByRelay),
        (_knows(450), PeerUnavailable),
        (_knows(550), RefusedByRelay),
    ],
)
async def test_what_the_relay_answers_is_told_without_its_words(
    does: Callable[[Mailbox], None], error: type[Exception], mailbox: Mailbox, relay: Relay
) -> None:
    does(mailbox)
    with pytest.raises(error, match=r"answered [45]\d\d") as told:
        await EmailChannel(relay, BASE).send(delivery(CHANNEL, 7))
    assert "ward-3" not in str(told.value)
    assert mailbox.taken == []


async def test_an_address_that_the_operator_does_not_allow_gets_nothing(mailbox: Mailbox, relay: Relay) -> None:
    for other in ("ward-3@example.com", "ward-3@sub.example.org", "ward-3@notexample.org"):
        with pytest.raises(RefusedByRelay, match="its operator can add it"):
            await EmailChannel(relay, BASE).send(delivery(replace(CHANNEL, endpoint=f"mailto:{other}"), 7))
    only = replace(relay, recipients=["Ward-3@Example.org"])
    await EmailChannel(only, BASE).send(delivery(CHANNEL, 7))
    assert mailbox.recipients == ["ward-3@example.org"]


async def test_the_time_is_for_all_that_the_relay_is_asked(mailbox: Mailbox, relay: Relay) -> None:
    """It answers each command in time, and is slow as a whole."""
    mailbox.pause_s = 0.8
    loop = asyncio.get_running_loop()
    before = loop.time()
    with pytest.raises(PeerUnavailable, match="within 1 s"):
        await EmailChannel(relay, BASE).send(delivery(replace(CHANNEL, timeout_s=1), 7))
    assert loop.time() - before < 3


async def test_a_relay_that_hangs_holds_up_nothing_else(mailbox: Mailbox, relay: Relay) -> None:
    mailbox.pause_s = 4
    sender = EmailChannel(relay, BASE)
    short = replace(CHANNEL, timeout_s=3)
    waiting = [asyncio.create_task(sender.send(delivery(short, n))) for n in range(1, 40)]
    await asyncio.sleep(0.2)
    async with asyncio.timeout(2):
        await asyncio.to_thread(bool)  # as all else does that waits in a thread
    told = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(each) for each in told} == {PeerUnavailable}
    sender.close()


async def test_no_relay_is_worth_another_try(relay: Relay) -> None:
    with pytest.raises(PeerUnavailable, match="cannot be reached"):
        await EmailChannel(replace(relay, port=1), BASE).send(delivery(CHANNEL, 7))


@pytest.fixture
def theirs(tmp_path: Path) -> tuple[ssl.SSLContext, Authority]:
    authority = Authority(tmp_path)
    pair = authority.issue("relay")
    return server_context(ServerTls(pair.certificate, pair.key)), authority


async def test_starttls_and_a_login(mailbox: Mailbox, theirs: tuple[ssl.SSLContext, Authority]) -> None:
    context, authority = theirs

    def knows(server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
        return AuthResult(success=(data.login, data.password) == (b"wetread", b"pa55word"), handled=False)

    async with relaying(
        mailbox, tls_context=context, require_starttls=True, authenticator=knows, auth_required=True
    ) as port:
        relay = Relay(
            "127.0.0.1", port, "wetread@hospital.example", "starttls", ["example.org"],
            client_contexts(ClientTls(authority.certificate)), "wetread", "pa55word",
        )  # fmt: skip
        await EmailChannel(relay, BASE).send(delivery(CHANNEL, 7))
        assert mailbox.was_tls == [True]
        with pytest.raises(RefusedByRelay, match="answered 535"):
            await EmailChannel(replace(relay, password="wrong"), BASE).send(delivery(CHANNEL, 7))
        with pytest.raises(PeerUnavailable, match="cannot be reached"):
            await EmailChannel(replace(relay, tls=client_contexts(ClientTls())), BASE).send(delivery(CHANNEL, 7))
    assert "pa55word" not in repr(relay)


async def test_mail_never_goes_in_the_clear_where_starttls_is_asked_for(mailbox: Mailbox, relay: Relay) -> None:
    with pytest.raises(PeerUnavailable, match="does not offer"):
        await EmailChannel(replace(relay, security="starttls"), BASE).send(delivery(CHANNEL, 7))
    assert mailbox.taken == []
