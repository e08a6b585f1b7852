"""TLS for every listener and every client, by one rule: 1.3, and 1.2 only where the operator says so.

A certificate, key or authority that is replaced on disk is used for the next connection. A new file that cannot be used
is logged, and what was in use is kept.
"""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, TypeAlias

from cryptography import x509

from wetread.errors import Misconfigured

logger = logging.getLogger(__name__)

MinimumVersion: TypeAlias = Literal["1.2", "1.3"]
Contexts: TypeAlias = Callable[[], ssl.SSLContext]
"""Gives the context for the next connection."""

VERSIONS: Mapping[MinimumVersion, ssl.TLSVersion] = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_CIPHERS_OF_1_2 = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Forward secrecy and authenticated encryption (RFC 9325 4.2; PS3.15 B.12 takes them over)."""


@dataclass(frozen=True, slots=True)
class ServerTls:
    """PEM files. With `client_ca` a client must show a certificate of that authority, or may, where it is not
    `required`; one that is shown and does not verify is refused in both cases."""

    certificate: Path
    key: Path
    client_ca: Path | None = None
    required: bool = True
    minimum: MinimumVersion = "1.3"


@dataclass(frozen=True, slots=True)
class ClientTls:
    """PEM files. Peers must be of `authority`, or of the system's where none is given, and must bear the name by which
    they are called. `certificate` and `key` are our own, shown where a peer asks."""

    authority: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    minimum: MinimumVersion = "1.3"


def server_context(wanted: ServerTls, *, protocols: Sequence[str] = ()) -> ssl.SSLContext:
    """For a listener. It looks at its files at each handshake. `protocols` are offered by ALPN (RFC 7301).

    Raises Misconfigured.
    """

    def build() -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        _harden(context, wanted.minimum)
        # A resumed session would not be checked against an authority that has been replaced since.
        context.num_tickets = 0
        context.options |= ssl.OP_NO_TICKET
        if protocols:
            context.set_alpn_protocols(list(protocols))
        _load_own(context, wanted.certificate, wanted.key)
        if wanted.client_ca is not None:
            _load_authority(context, wanted.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED if wanted.required else ssl.CERT_OPTIONAL
        return context

    outer = build()
    contexts = renewed(build, (wanted.certificate, wanted.key, wanted.client_ca))

    def choose(connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, context: ssl.SSLContext) -> None:
        """OpenSSL calls this at each handshake, whether or not the client names a host."""
        connection.context = contexts()

    outer.sni_callback = choose
    return outer


def client_contexts(wanted: ClientTls) -> Contexts:
    """For calls to peers. Raises Misconfigured."""

    def build() -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        _harden(context, wanted.minimum)
        if wanted.authority is None:
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        else:
            _load_authority(context, wanted.authority)
        if wanted.certificate is not None and wanted.key is not None:
            _load_own(context, wanted.certificate, wanted.key)
        return context

    return renewed(build, (wanted.authority, wanted.certificate, wanted.key))


def expiry(certificate: Path) -> datetime | None:
    """When the first certificate of a PEM file ends that does; None where it holds none."""
    try:
        found = x509.load_pem_x509_certificates(certificate.read_bytes())
    except (OSError, ValueError):
        return None
    return min(one.not_valid_after_utc for one in found)


def _harden(context: ssl.SSLContext, minimum: MinimumVersion) -> None:
    context.minimum_version = VERSIONS[minimum]
    context.set_ciphers(_CIPHERS_OF_1_2)
    context.options |= ssl.OP_NO_RENEGOTIATION


def _load_own(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    try:
        # Without a password OpenSSL would ask for one on the terminal.
        context.load_cert_chain(certificate, key, password="")
    except (OSError, ssl.SSLError) as error:
        raise Misconfigured(
            f"{certificate} and {key}: not a certificate and its private key in PEM, without a password "
            f"({_reason(error)})"
        ) from error


def _load_authority(context: ssl.SSLContext, authority: Path) -> None:
    try:
        context.load_verify_locations(authority)
    except (OSError, ssl.SSLError) as error:
        raise Misconfigured(f"{authority}: no certificates of an authority in PEM ({_reason(error)})") from error


def _reason(error: OSError) -> str:
    return (error.reason if isinstance(error, ssl.SSLError) else error.strerror) or type(error).__name__


def renewed(build: Contexts, files: Sequence[Path | None]) -> Contexts:
    """What `build` makes, made anew when one of `files` has changed. Threads may share it."""
    used = [file for file in files if file is not None]
    lock = threading.Lock()
    mark = _mark(used)
    current = build()

    def contexts() -> ssl.SSLContext:
        nonlocal mark, current
        with lock:
            seen = _mark(used)
            if seen != mark:
                mark = seen
                try:
                    current = build()
                    logger.info("TLS: %s renewed", used[0])
                except Misconfigured as error:
                    logger.error("TLS: %s; what was in use is kept", error.message)
            return current

    return contexts


def _mark(files: Sequence[Path]) -> tuple[tuple[int, int, int] | None, ...]:
    """Tells one state of the files from another; a file that is written anew within a second is another inode, size or
    nanosecond."""
    marks: list[tuple[int, int, int] | None] = []
    for file in files:
        try:
            found = file.stat()
            marks.append((found.st_mtime_ns, found.st_size, found.st_ino))
        except OSError:
            marks.append(None)
    return tuple(marks)
