"""The audit record on its way out: every chained record, in order, over crashes, cuts and refusals."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from xml.etree.ElementTree import fromstring

import pytest
from tests.certificates import Authority, Pair

from wetread.outbound.audit_file import FileSink
from wetread.outbound.audit_streams import Sink, Stream
from wetread.outbound.audit_syslog import SyslogSink, framed, message
from wetread.record.audit import audit, chain, stream
from wetread.record.audit.audit import AuditEntry
from wetread.record.audit.stream import Chained
from wetread.store.database import Database
from wetread.wire.tls import ClientTls, client_contexts


async def _written(database: Database, count: int, *, governance_only: bool = False) -> list[str]:
    entries = [AuditEntry("read", "R", "0", f"r{n}", governance_only=governance_only) for n in range(count)]
    async with database.transaction() as conn:
        ids = await audit.write_many(conn, entries)
    async with database.transaction() as conn:
        await chain.extend(conn)
    return ids


async def _fed(database: Database, sink: Sink, until: Callable[[], Awaitable[bool] | bool]) -> None:
    """Runs the stream until something holds."""
    stop = asyncio.Event()
    running = asyncio.create_task(Stream(database, sink, first_wait_s=0.05).run(stop))
    try:
        async with asyncio.timeout(15):
            while True:
                held = until()
                if held if isinstance(held, bool) else await held:
                    return
                await asyncio.sleep(0.02)
    finally:
        stop.set()
        await running


async def _cursor(database: Database, name: str) -> int:
    async with database.transaction() as conn:
        return await stream.cursor(conn, name)


async def _has_come(database: Database, name: str, seq: int) -> bool:
    return await _cursor(database, name) >= seq


def _ids(folder: Path) -> list[str]:
    return [json.loads(line)["id"] for file in sorted(folder.glob("*")) for line in file.read_text().splitlines()]


def _whole(folder: Path) -> list[str]:
    """Of lines that have come to their end."""
    texts = [file.read_text().rpartition("\n")[0] for file in sorted(folder.glob("*"))]
    return [json.loads(line)["id"] for text in texts for line in text.splitlines()]


class TestFile:
    async def test_every_record_stands_there_once_in_its_order_but_those_for_governance(
        self, database: Database, tmp_path: Path
    ) -> None:
        first = await _written(database, 700)  # more than one batch
        await _written(database, 3, governance_only=True)
        second = await _written(database, 2)
        await _fed(database, FileSink(tmp_path), lambda: len(_whole(tmp_path)) == 702)
        assert _ids(tmp_path) == [*first, *second]
        [file] = list(tmp_path.glob("*"))  # noqa: ASYNC240
        assert re.fullmatch(r"audit-\d{4}-\d\d-\d\d\.ndjson", file.name)
        assert file.stat().st_mode & 0o777 == 0o640

    @pytest.mark.parametrize(("kept", "torn"), [(0, 40), (1, 0), (2, 1), (3, 0), (3, 40)])
    async def test_what_a_crash_left_half_written_or_unknown_to_the_cursor_is_made_whole(
        self, database: Database, tmp_path: Path, kept: int, torn: int
    ) -> None:
        """After `kept` records of three the process died `torn` bytes into the next; the cursor still stood at one."""
        ids = await _written(database, 3)
        async with database.transaction() as conn:
            records = await stream.after(conn, 0, 10)
            await stream.cursor(conn, "file")
            await stream.advance(conn, "file", min(kept, 1))
        lines = [record.body + "\n" for record in records] + [" " * 40]
        (tmp_path / "audit-2020-01-01.ndjson").write_text("".join(lines[:kept]) + lines[kept][:torn])
        await _fed(database, FileSink(tmp_path), lambda: _has_come(database, "file", 3))
        assert _ids(tmp_path) == ids

    async def test_after_a_full_disk_it_goes_on_where_it_was(self, database: Database, tmp_path: Path) -> None:
        ids = await _written(database, 3)
        (tmp_path / "audit").write_text("no folder")
        sink = FileSink(tmp_path / "audit")

        async def made_room() -> bool:
            if (tmp_path / "audit").is_file():
                (tmp_path / "audit").unlink()
            return (tmp_path / "audit").is_dir() and len(_whole(tmp_path / "audit")) == 3

        await _fed(database, sink, made_room)
        assert _ids(tmp_path / "audit") == ids

    async def test_two_processes_do_not_write_at_once(self, database: Database, tmp_path: Path) -> None:
        ids = await _written(database, 50)
        stop = asyncio.Event()
        runs = [asyncio.create_task(Stream(database, FileSink(tmp_path)).run(stop)) for _ in range(3)]
        await _fed(database, FileSink(tmp_path), lambda: len(_whole(tmp_path)) >= 50)
        stop.set()
        await asyncio.gather(*runs)
        assert _ids(tmp_path) == ids

    @pytest.mark.slow
    async def test_killed_at_any_moment_nothing_is_lost_or_doubled(self, database: Database, tmp_path: Path) -> None:
        ids = await _written(database, 900)
        program = (
            "import asyncio, sys; from pathlib import Path\n"
            "from wetread.outbound import audit_streams\n"
            "from wetread.outbound.audit_file import FileSink\n"
            "from wetread.store.database import Database\n"
            "audit_streams._BATCH = 3\n"
            "stream = audit_streams.Stream(Database(sys.argv[1]), FileSink(Path(sys.argv[2])))\n"
            "asyncio.run(stream.run(asyncio.Event()))\n"
        )
        for lives in range(6):
            await asyncio.to_thread(_lived_and_killed, program, database.url, tmp_path, 0.005 * (lives + 1))
        await _fed(database, FileSink(tmp_path), lambda: len(_whole(tmp_path)) >= 900)
        assert _ids(tmp_path) == ids


def _lived_and_killed(program: str, url: str, folder: Path, pause_s: float) -> None:
    """The program, until it has written some fifty lines more."""
    process = subprocess.Popen([sys.executable, "-c", program, url, str(folder)])
    before, deadline = len(_whole(folder)), time.monotonic() + 20
    while len(_whole(folder)) <= before + 50 and time.monotonic() < deadline:
        time.sleep(pause_s)
    process.kill()
    process.wait()


class Repository:
    """An audit record repository that the test scripts: `closes_after` so many messages it breaks the connection."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.connections = 0
        self.closes_after: int | None = None
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        taken = 0
        try:
            while self.closes_after is None or taken < self.closes_after:
                length = int((await reader.readuntil(b" ")).strip())
                self.messages.append(await reader.readexactly(length))
                taken += 1
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError, ssl.SSLError):
            pass
        self.closes_after = None
        writer.transport.abort()

    @property
    def principals(self) -> list[str]:
        return [_principal(one) for one in self.messages]


def _principal(syslog: bytes) -> str:
    return fromstring(syslog.partition(b"\xef\xbb\xbf")[2])[1].attrib["UserID"]


@asynccontextmanager
async def _repository(authority: Authority, pair: Pair, *, mutual: bool = True) -> AsyncIterator[Repository]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    if mutual:
        context.load_verify_locations(authority.certificate)
        context.verify_mode = ssl.CERT_REQUIRED
    made = Repository()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, ssl=context)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def _sink(authority: Authority, port: int, own: Pair | None) -> SyslogSink:
    certificate, key = (own.certificate, own.key) if own else (None, None)
    return SyslogSink("arr", "127.0.0.1", port, client_contexts(ClientTls(authority.certificate, certificate, key)))


class TestSyslog:
    async def test_messages_are_framed_and_formed_as_rfc_5424_and_dicom_want(self) -> None:
        body = audit.audit_event("0f2e", datetime(2026, 3, 1, tzinfo=UTC), AuditEntry("read", "R", "0", "viewer"))
        record = Chained(1, datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC), False, body)
        content = message(record)
        assert re.match(
            rb"<85>1 2026-03-01T12:00:00\.123Z [!-~]{1,255} wetread \d+ DICOM\+RFC3881 - \xef\xbb\xbf<AuditMessage>",
            content,
        )
        assert framed(content) == str(len(content)).encode() + b" " + content

    async def test_every_record_arrives_in_order_by_mutual_tls(self, database: Database, authority: Authority) -> None:
        await _written(database, 600)
        await _written(database, 1, governance_only=True)
        async with _repository(authority, authority.issue("arr")) as repository:
            sink = _sink(authority, repository.port, authority.issue("wetread"))
            await _fed(database, sink, lambda: len(repository.messages) >= 600)
        assert repository.principals == [f"r{n}" for n in range(600)]
        assert await _cursor(database, "syslog:arr") == 601

    async def test_when_the_connection_breaks_none_is_lost_and_the_order_is_kept(
        self, database: Database, authority: Authority
    ) -> None:
        await _written(database, 40)
        async with _repository(authority, authority.issue("arr")) as repository:
            repository.closes_after = 7
            sink = _sink(authority, repository.port, authority.issue("wetread"))
            await _fed(database, sink, lambda: repository.principals[-1:] == ["r39"])
        assert repository.connections >= 2
        assert repository.principals[:7] == [f"r{n}" for n in range(7)]
        assert repository.principals[7:] == [f"r{n}" for n in range(40)]  # what was in doubt comes again

    async def test_a_repository_that_is_away_gets_all_when_it_is_back(
        self, database: Database, authority: Authority
    ) -> None:
        await _written(database, 3)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        sink = _sink(authority, port, authority.issue("wetread"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await _fed(database, sink, lambda: False)
        assert await _cursor(database, "syslog:arr") == 0

    @pytest.mark.parametrize("own", [None, "stranger"])
    async def test_where_our_certificate_is_refused_nothing_counts_as_sent(
        self, database: Database, authority: Authority, tmp_path: Path, own: str | None
    ) -> None:
        await _written(database, 1)
        strangers = Authority(tmp_path, "strangers")
        async with _repository(authority, authority.issue("arr")) as repository:
            sink = _sink(authority, repository.port, strangers.issue("stranger") if own else None)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1.5):
                    await _fed(database, sink, lambda: False)
        assert await _cursor(database, "syslog:arr") == 0
        assert repository.messages == []

    async def test_a_repository_of_another_authority_gets_nothing(
        self, database: Database, authority: Authority, tmp_path: Path
    ) -> None:
        await _written(database, 1)
        strangers = Authority(tmp_path, "strangers")
        async with _repository(strangers, strangers.issue("arr"), mutual=False) as repository:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await _fed(database, _sink(authority, repository.port, None), lambda: False)
        assert repository.messages == []


_RSYSLOG = """
global(workDirectory="{folder}" maxMessageSize="256k" defaultNetstreamDriver="ossl"
       defaultNetstreamDriverCAFile="{ca}" defaultNetstreamDriverCertFile="{certificate}"
       defaultNetstreamDriverKeyFile="{key}" parser.escapeControlCharactersOnReceive="off")
module(load="imtcp" StreamDriver.Name="ossl" StreamDriver.Mode="1" StreamDriver.AuthMode="x509/certvalid")
input(type="imtcp" port="{port}" address="127.0.0.1")
template(name="told" type="string" string="%pri%|%protocol-version%|%app-name%|%msgid%|%structured-data%|%msg%\\n")
action(type="omfile" file="{folder}/told.log" template="told")
"""


@contextmanager
def _rsyslog(folder: Path, authority: Authority) -> Iterator[int]:
    """Debian's rsyslog, that takes syslog over TLS from whoever shows a certificate of the authority."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    pair = authority.issue("rsyslog")
    config = folder / "rsyslog.conf"
    config.write_text(
        _RSYSLOG.format(folder=folder, ca=authority.certificate, certificate=pair.certificate, key=pair.key, port=port)
    )
    command = ["/usr/sbin/rsyslogd", "-n", "-f", str(config), "-i", str(folder / "pid")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(10)


async def test_rsyslog_takes_them_by_mutual_tls_as_the_messages_they_are(
    database: Database, authority: Authority, tmp_path: Path
) -> None:
    await _written(database, 200)
    told = tmp_path / "told.log"
    with _rsyslog(tmp_path, authority) as port:
        sink = _sink(authority, port, authority.issue("wetread"))
        await _fed(database, sink, lambda: told.exists() and told.read_bytes().count(b"\n") >= 200)
    lines = told.read_bytes().decode("utf-8-sig").splitlines()
    fields = [line.split("|", 5) for line in lines]
    assert {tuple(field[:5]) for field in fields} == {("85", "1", "wetread", "DICOM+RFC3881", "-")}
    bodies = [field[5].removeprefix("\ufeff") for field in fields]
    assert [fromstring(body)[1].attrib["UserID"] for body in bodies] == [f"r{n}" for n in range(200)]
