"""A server that speaks TLS at every door, as a site starts it: who is let in, what a proxy may say, new files."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import Authority, Pair
from tests.flow.conftest import Server
from tests.ports import free_port
from wetread.access.tokens import Tokens, signing_key
from wetread.app import TOKEN_AUDIENCE
from wetread.wire.mllp import frame

MESSAGE = (
    b"MSH|^~\\&|A|B|WETREAD|WETREAD|20261101||ADT^A08^ADT_A01|1|P|2.5\rEVN||20261101\r"
    b"PID|1||4711^^^X||Roe^Jane\rPV1|1|O\r"
)
IMAGE = Path(__file__).parents[2] / "data/dicom/syntaxes/MR_small.dcm"


@dataclass
class Site:
    server: Server
    authority: Authority
    clients: Authority
    own: Pair
    known: Pair

    def curl(self, path: str, *more: str | Path, trusted: Authority | None = None) -> tuple[int, str]:
        """Status, 0 where there is no answer, and the answer with its head."""
        identity = ("--cert", self.known.certificate, "--key", self.known.key) if "--anonymous" not in more else ()
        more = tuple(word for word in more if word != "--anonymous")
        url = f"https://127.0.0.1:{self.server.ports['http']}{path}"
        done = subprocess.run(
            ["curl", "-sSi", "-m20", "--cacert", (trusted or self.authority).certificate, *identity, *more, url],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        return (int(done.stdout.split()[1]) if done.returncode == 0 else 0), done.stdout

    @property
    def signed(self) -> tuple[str, str]:
        tokens = Tokens(signing_key(self.server.data_dir / "token.key"), TOKEN_AUDIENCE)
        token = tokens.issue("test", "system/*.cruds", ("auditor",), timedelta(hours=1)).token
        return ("-H", f"Authorization: Bearer {token}")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("transport")
    authority, clients = Authority(folder), Authority(folder, "clients")
    own, known = authority.issue("server"), clients.issue("known")
    ports = {name: free_port() for name in ("http", "mllp", "dicom")}
    tls = f'certificate = "{own.certificate}"\nkey = "{own.key}"\nclient_ca = "{clients.certificate}"\n'
    tables = [f"[{name}]\nport = {port}\n[{name}.tls]\n{tls}" for name, port in ports.items()]
    tables[0] = tables[0].replace("[http.tls]", 'trusted_proxies = ["127.0.0.1/32"]\n[http.tls]')
    config = folder / "wetread.toml"
    config.write_text('[site]\ndefault_authority = "urn:x"\n' + "".join(tables))
    server = Server(config, folder / "data", ports)
    site = Site(server, authority, clients, own, known)
    server.start()
    try:
        _wait(site)
        yield site
    finally:
        server.stop()


def _wait(site: Site) -> None:
    deadline = time.monotonic() + 90
    while site.curl("/readyz")[0] != 200 or not _echoed(site):
        log = (site.server.config.parent / "server.log").read_text()[-3000:]
        assert site.server.process is not None
        assert site.server.process.poll() is None, log
        assert time.monotonic() < deadline, log
        time.sleep(0.2)


def _dcmtk(site: Site, *command: str | Path, trusted: Authority | None = None) -> bool:
    port = str(site.server.ports["dicom"])
    words = [command[0], "+cf", (trusted or site.authority).certificate, *command[1:]]
    if command[0] == "storescu":
        words = [*words[:-1], "-xe", "-aec", "WETREAD", "127.0.0.1", port, words[-1]]
    else:
        words = [*words, "-aec", "WETREAD", "127.0.0.1", port]
    done = subprocess.run([str(word) for word in words], capture_output=True, check=False, timeout=30)
    return done.returncode == 0


def _echoed(site: Site, trusted: Authority | None = None) -> bool:
    return _dcmtk(site, "echoscu", "+tls", site.known.key, site.known.certificate, trusted=trusted)


def _order(site: Site, *identity: str | Path, trusted: Authority | None = None) -> bytes:
    where = ("-connect", f"127.0.0.1:{site.server.ports['mllp']}", "-verify_return_error")
    command = ["openssl", "s_client", "-quiet", *where, "-CAfile", (trusted or site.authority).certificate, *identity]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as peer:
        assert peer.stdin is not None
        assert peer.stdout is not None
        try:
            peer.stdin.write(frame(MESSAGE))
            peer.stdin.flush()
            heard = b""
            while not heard.endswith(b"\x1c\r") and (piece := os.read(peer.stdout.fileno(), 65536)):
                heard += piece
            return heard
        except BrokenPipeError:
            return b""
        finally:
            peer.kill()


def test_curl_needs_a_certificate_and_is_told_to_stay_with_https(site: Site) -> None:
    status, answer = site.curl("/healthz")
    assert status == 200
    assert "strict-transport-security: max-age=" in answer.lower()
    assert site.curl("/healthz", "--anonymous")[0] == 0
    assert site.curl("/healthz", "--tls-max", "1.2")[0] == 0


def test_the_address_that_clients_see_follows(site: Site) -> None:
    _, answer = site.curl("/fhir/metadata")
    described = json.loads(answer.partition("\n\n")[2] or answer.partition("\r\n\r\n")[2])
    assert described["implementation"]["url"] == f"https://127.0.0.1:{site.server.ports['http']}/fhir"


def test_an_order_by_mllp_needs_a_certificate(site: Site) -> None:
    assert b"MSA|A" in _order(site, "-cert", site.known.certificate, "-key", site.known.key)
    assert _order(site) == b""


def test_an_image_by_dicom_needs_a_certificate(site: Site) -> None:
    assert _dcmtk(site, "storescu", "+tls", site.known.key, site.known.certificate, IMAGE)
    assert not _dcmtk(site, "storescu", "+tla", IMAGE)


def test_who_asked_is_what_the_trusted_proxy_says_and_is_on_record(site: Site) -> None:
    site.curl("/fhir/Patient/none", "-H", "X-Forwarded-For: 10.9.9.9, 203.0.113.77", *site.signed)
    _, answer = site.curl("/fhir/AuditEvent?_count=20&_sort=-date", *site.signed)
    assert "203.0.113.77" in answer
    assert "10.9.9.9" not in answer
    status, answer = site.curl("/healthz", "-H", "X-Forwarded-For: 203.0.113.77", "-H", "Forwarded: for=127.0.0.1")
    assert (status, '"status":400' in answer.replace(" ", "")) == (400, True)


def test_a_new_certificate_is_used_at_every_door_without_a_restart(site: Site) -> None:
    later = Authority(site.server.config.parent, "later")
    before: Any = (site.own.certificate.read_bytes(), site.own.key.read_bytes())
    later.issue("server", into=site.own)
    identity = ("-cert", site.known.certificate, "-key", site.known.key)
    try:
        assert site.curl("/healthz", trusted=later)[0] == 200
        assert _echoed(site, trusted=later)
        assert b"MSA|A" in _order(site, *identity, trusted=later)
        assert site.curl("/healthz")[0] == 0
        assert not _echoed(site)
    finally:
        site.own.certificate.write_bytes(before[0])
        site.own.key.write_bytes(before[1])
    assert site.curl("/healthz")[0] == 200
