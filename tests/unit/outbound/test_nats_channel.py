"""Notifications as messages of a stream: to the real NATS server, Debian's."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import nats
import nkeys
import pytest
from nats.js import JetStreamContext
from nats.js.api import RawStreamMsg, StreamConfig
from tests.certificates import Authority
from tests.ports import free_port

from wetread.errors import PeerUnavailable
from wetread.outbound.nats_channel import Broker, NatsChannel, NoStream, covers
from wetread.record.subscriptions.channel import Channel
from wetread.wire.tls import ClientTls, client_contexts

from .notifying import BASE, TASK, delivery

CHANNEL = Channel("nats", "nats:wetread.tasks", "application/fhir+json", "full-resource", (), 5)


@asynccontextmanager
async def serving(folder: Path, port: int, *options: str) -> AsyncIterator[str]:
    program = shutil.which("nats-server") or "/usr/sbin/nats-server"
    process = await asyncio.create_subprocess_exec(
        program, "-js", "-sd", str(folder), "-a", "127.0.0.1", "-p", str(port), *options,
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        for _ in range(200):
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                break
        else:
            raise AssertionError("nats-server does not answer")
        yield f"nats://127.0.0.1:{port}"
    finally:
        process.kill()
        await process.wait()


@asynccontextmanager
async def stream(
    url: str, tls: ssl.SSLContext | None = None, credentials: Path | None = None
) -> AsyncIterator[JetStreamContext]:
    """As a data platform has it: one subject is kept."""
    client = await nats.connect(url, tls=tls, user_credentials=str(credentials) if credentials else None)
    try:
        jetstream = client.jetstream()
        await jetstream.add_stream(StreamConfig(name="RESULTS", subjects=["wetread.tasks"]))
        yield jetstream
    finally:
        await client.close()


async def _stored(jetstream: JetStreamContext) -> list[RawStreamMsg]:
    state = (await jetstream.stream_info("RESULTS")).state
    return [await jetstream.get_msg("RESULTS", n) for n in range(state.first_seq, state.last_seq + 1)]


@asynccontextmanager
async def publishing(*servers: str, **how: object) -> AsyncIterator[NatsChannel]:
    channel = NatsChannel(Broker(servers, ["wetread.>"], **how), BASE)  # type: ignore[arg-type]
    try:
        yield channel
    finally:
        await channel.close()


async def test_a_notification_is_kept_once_however_often_it_is_sent(tmp_path: Path) -> None:
    async with serving(tmp_path, free_port()) as url, stream(url) as jetstream:
        async with publishing(url) as sender:
            await sender.send(delivery(CHANNEL))
            for _ in range(3):
                await sender.send(delivery(CHANNEL, 1, 2))
        async with publishing(url) as restarted:
            await restarted.send(delivery(CHANNEL, 1, 2))
            await restarted.send(delivery(CHANNEL, 3))
        handshake, first, second = await _stored(jetstream)
    assert handshake.headers is not None
    assert handshake.headers["Wetread-Notification"] == "handshake"
    assert first.headers == {
        "Nats-Msg-Id": "s1-1-2",
        "Content-Type": "application/fhir+json",
        "Wetread-Notification": "event-notification",
    }
    assert first.data is not None
    assert json.loads(first.data)["type"] == "history"
    assert TASK in first.data.decode()
    assert second.headers is not None
    assert second.headers["Nats-Msg-Id"] == "s1-3"


async def test_a_subject_that_no_stream_keeps_or_nobody_allows_is_refused(tmp_path: Path) -> None:
    elsewhere = Channel("nats", "nats:wetread.other", "application/fhir+json", "id-only", (), 5)
    forbidden = Channel("nats", "nats:billing.tasks", "application/fhir+json", "id-only", (), 5)
    async with serving(tmp_path, free_port()) as url, stream(url), publishing(url) as sender:
        with pytest.raises(NoStream, match=r"no stream for the subject wetread\.other"):
            await sender.send(delivery(elsewhere, 1))
        with pytest.raises(NoStream, match="its operator can add it"):
            await sender.send(delivery(forbidden, 1))


async def test_a_notification_that_is_too_large_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "nats.conf"
    config.write_text("max_payload: 300\n")
    async with serving(tmp_path, free_port(), "-c", str(config)) as url, publishing(url) as sender:
        with pytest.raises(NoStream, match="larger than the broker takes"):
            await sender.send(delivery(CHANNEL, 1))


async def test_a_broker_that_restarts_loses_nothing(tmp_path: Path) -> None:
    port = free_port()
    short = Channel("nats", "nats:wetread.tasks", "application/fhir+json", "id-only", (), 1)
    async with serving(tmp_path, port) as url, stream(url), publishing(url) as unused:
        await unused.send(delivery(CHANNEL, 1))
    async with publishing(url) as sender:
        with pytest.raises(PeerUnavailable, match="no answer from the broker"):
            await sender.send(delivery(short, 2))
        async with serving(tmp_path, port), publishing(url) as again:
            await sender.send(delivery(CHANNEL, 2))
            await again.send(delivery(CHANNEL, 2))
            client = await nats.connect(url)
            kept = await _stored(client.jetstream())
            await client.close()
    assert [(one.headers or {})["Nats-Msg-Id"] for one in kept] == ["s1-1", "s1-2"]


async def test_a_connection_outlives_a_restart_of_the_broker(tmp_path: Path) -> None:
    port = free_port()
    short = Channel("nats", "nats:wetread.tasks", "application/fhir+json", "id-only", (), 1)
    async with publishing(f"nats://127.0.0.1:{port}") as sender:
        async with serving(tmp_path, port) as url, stream(url):
            await sender.send(delivery(CHANNEL, 1))
        with pytest.raises(PeerUnavailable):
            await sender.send(delivery(short, 2))
        async with serving(tmp_path, port):
            for _ in range(40):
                try:
                    await sender.send(delivery(short, 2))
                    break
                except PeerUnavailable:
                    await asyncio.sleep(0.2)
            else:
                raise AssertionError("never back")


async def test_mutual_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    theirs, ours = authority.issue("broker"), authority.issue("wetread")
    port = free_port()
    options = ("--tlsverify", "--tlscert", str(theirs.certificate), "--tlskey", str(theirs.key))
    async with serving(tmp_path, port, *options, "--tlscacert", str(authority.certificate)):
        url = f"tls://127.0.0.1:{port}"
        tls = client_contexts(ClientTls(authority.certificate, ours.certificate, ours.key))
        async with stream(url, tls()) as jetstream, publishing(url, tls=tls) as sender:
            await sender.send(delivery(CHANNEL, 1))
            assert len(await _stored(jetstream)) == 1
        short = Channel("nats", "nats:wetread.tasks", "application/fhir+json", "id-only", (), 1)
        async with publishing(url, tls=client_contexts(ClientTls(authority.certificate))) as unknown:
            with pytest.raises(PeerUnavailable):
                await unknown.send(delivery(short, 2))


async def test_a_certificate_that_was_replaced_is_shown_when_the_broker_is_back(tmp_path: Path) -> None:
    old, new = Authority(tmp_path, "old"), Authority(tmp_path, "new")
    ours, trusted = old.issue("wetread"), tmp_path / "trusted.pem"
    trusted.write_bytes(old.certificate.read_bytes())
    port = free_port()

    def options(authority: Authority) -> tuple[str, ...]:
        theirs = authority.issue("broker")
        files = {"cert": theirs.certificate, "key": theirs.key, "cacert": authority.certificate}
        return ("--tlsverify", *(word for name, file in files.items() for word in (f"--tls{name}", str(file))))

    tls = client_contexts(ClientTls(trusted, ours.certificate, ours.key))
    short = Channel("nats", "nats:wetread.tasks", "application/fhir+json", "id-only", (), 1)
    async with publishing(f"tls://127.0.0.1:{port}", tls=tls) as sender:
        async with serving(tmp_path, port, *options(old)) as url, stream(url, tls()):
            await sender.send(delivery(short, 1))
        with pytest.raises(PeerUnavailable):
            await sender.send(delivery(short, 2))
        async with serving(tmp_path, port, *options(new)) as url:
            with pytest.raises(PeerUnavailable):
                await sender.send(delivery(short, 2))
            trusted.write_bytes(new.certificate.read_bytes())
            new.issue("wetread", into=ours)
            await sender.send(delivery(short, 2))


def _token(claims: dict[str, object], subject: nkeys.KeyPair, issuer: nkeys.KeyPair) -> str:
    """A JWT of NATS (ADR-14), signed by an Ed25519 key."""
    about = {
        "jti": "j",
        "iat": 1,
        "iss": issuer.public_key.decode(),
        "sub": subject.public_key.decode(),
        "nats": claims,
    }
    parts = [{"typ": "JWT", "alg": "ed25519-nkey"}, about]
    signed = ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts)
    return f"{signed}.{base64.urlsafe_b64encode(issuer.sign(signed.encode())).decode().rstrip('=')}"


def _key(kind: int) -> nkeys.KeyPair:
    return nkeys.from_seed(nkeys.encode_seed(os.urandom(32), kind))


async def test_the_credentials_of_an_account(tmp_path: Path) -> None:
    kinds = (nkeys.PREFIX_BYTE_OPERATOR, nkeys.PREFIX_BYTE_ACCOUNT, nkeys.PREFIX_BYTE_USER)
    operator, account, user = map(_key, kinds)
    system = _key(nkeys.PREFIX_BYTE_ACCOUNT)
    limits = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf", "mem_storage"), -1)
    limits |= dict.fromkeys(("disk_storage", "streams", "consumer"), -1) | {"wildcards": True}
    of_operator = _token({"type": "operator", "version": 2}, operator, operator)
    of_account = _token({"type": "account", "version": 2, "limits": limits}, account, operator)
    of_user = _token({"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1}, user, account)
    credentials = tmp_path / "user.creds"
    credentials.write_text(
        f"-----BEGIN NATS USER JWT-----\n{of_user}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n------END USER NKEY SEED------\n"
    )
    config = tmp_path / "nats.conf"
    of_system = _token({"type": "account", "version": 2}, system, operator)
    known = {account.public_key.decode(): of_account, system.public_key.decode(): of_system}
    config.write_text(
        f"operator: {of_operator}\nsystem_account: {system.public_key.decode()}\nresolver: MEMORY\n"
        "resolver_preload: {\n" + "".join(f"{name}: {token}\n" for name, token in known.items()) + "}\n"
    )
    async with serving(tmp_path / "kept", free_port(), "-c", str(config)) as url:
        async with stream(url, credentials=credentials) as jetstream:
            async with publishing(url, credentials=credentials) as sender:
                await sender.send(delivery(CHANNEL, 1))
            assert len(await _stored(jetstream)) == 1
        short = Channel("nats", "nats:wetread.tasks", "application/fhir+json", "id-only", (), 1)
        async with publishing(url) as nobody:
            with pytest.raises(PeerUnavailable):
                await nobody.send(delivery(short, 2))


@pytest.mark.parametrize(
    ("pattern", "subject", "covered"),
    [
        ("wetread.>", "wetread.a", True),
        ("wetread.>", "wetread.a.b", True),
        ("wetread.>", "wetread", False),
        ("wetread.*", "wetread.a.b", False),
        ("wetread.*.x", "wetread.a.x", True),
        ("wetread.a", "wetread.a", True),
        ("wetread.a", "wetread.ab", False),
        (">", "billing", True),
    ],
)
def test_subjects_are_allowed_as_nats_writes_them(pattern: str, subject: str, covered: bool) -> None:
    assert covers(pattern, subject) is covered
