"""What `check-config` warns of: allowed, and weaker than it need be. No text holds a secret."""

from __future__ import annotations

import ipaddress
import stat
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, SecretStr

from wetread.domain.networks import Network, networks
from wetread.settings import Settings, Tls, is_loopback, read
from wetread.settings.sending import PeerTls
from wetread.wire.tls import expiry

_SOON = timedelta(days=30)
_WIDE_V4, _WIDE_V6 = 4, 16
"""A network with so short a prefix is not a hospital's."""
_LONG_TOKEN_MINUTES, _LONG_SESSION_HOURS, _LONG_OFFLINE_DAYS = 120, 24, 180
_LINK_LOCAL = networks(["169.254.0.0/16", "fe80::/10"])


def weaknesses(settings: Settings, file: Path | None) -> Iterator[str]:
    """Each begins with the key to look at. `file` is the one that the settings were read from."""
    if settings.demo:
        yield "profile: demo is for trying out; shipped models are active and results are marked DEMO"
    yield from _listeners(settings)
    yield from _limits(settings)
    yield from _destinations(settings)
    yield from _notified(settings)
    yield from _networks(settings)
    yield from _lifetimes(settings)
    yield from settings.access.weaknesses()
    yield from _certificates(settings)
    yield from _files(settings, file)


def _listeners(settings: Settings) -> Iterator[str]:
    http = settings.http
    if not is_loopback(http.host) and http.tls is None:
        yield "http.host: plain HTTP beyond loopback; who listens on the way here reads tokens and patients"
    if not is_loopback(settings.base_url) and settings.base_url.startswith("http:"):
        yield "http.base_url: clients are told to come by plain HTTP"
    for name, listener in (("mllp", settings.mllp), ("dicom", settings.dicom)):
        if is_loopback(listener.host):
            continue
        if listener.tls is None:
            yield f"{name}.tls: beyond loopback without TLS; patient data can be read and changed on the way"
        elif not listener.tls.is_mutual:
            yield f"{name}.tls.client_ca: senders need no certificate; who is in {name}.allow may send as anybody"
    for key, minimum in _minimum_versions(settings):
        if minimum != "1.3":
            yield f"{key}.minimum_version: TLS {minimum} is let in; 1.3 is the default"


def _minimum_versions(settings: Settings) -> Iterator[tuple[str, str]]:
    for key, tls in _server_tls(settings):
        yield key, tls.minimum_version
    for key, peer in _peer_tls(settings):
        yield key, peer.minimum_version
    for repository in settings.audit.syslog:
        yield f"audit.syslog.{repository.name}.tls", repository.tls.minimum_version
    yield "outbound", settings.outbound.minimum_version


def _limits(settings: Settings) -> Iterator[str]:
    for key, value in settings.http.limits.model_dump().items():
        if value == 0:
            yield f"http.limits.{key}: 0 sets no limit"


def _destinations(settings: Settings) -> Iterator[str]:
    for destination in settings.outbound.destinations:
        where = destination.url or destination.host
        is_clear = destination.url.startswith("http:") if destination.kind == "stow" else destination.tls is None
        if is_clear and not is_loopback(where):
            yield f"outbound.destinations.{destination.name}: results leave without TLS"


def _notified(settings: Settings) -> Iterator[str]:
    outbound = settings.outbound
    beyond = [text for text in outbound.allow if not is_loopback(text.partition("/")[0])]
    if outbound.plain and beyond:
        yield f"outbound.plain: notifications may tell of patients to {', '.join(beyond)} without TLS"
    mail = outbound.mail
    if mail is not None and mail.security == "none" and not is_loopback(mail.host):
        yield "outbound.mail.security: mail goes to the relay in the clear"


def _networks(settings: Settings) -> Iterator[str]:
    lists: Sequence[tuple[str, Sequence[str]]] = (
        ("http.allow", settings.http.allow),
        ("http.trusted_proxies", settings.http.trusted_proxies),
        ("mllp.allow", settings.mllp.allow),
        ("dicom.allow", settings.dicom.allow),
        ("outbound.allow", [text for text in settings.outbound.allow if _network(text) is not None]),
    )
    for key, texts in lists:
        for text in texts:
            network = _network(text)
            if network is None:
                continue
            if network.prefixlen <= (_WIDE_V4 if network.version == 4 else _WIDE_V6):
                yield f"{key}: {text} is nearly every address there is"
            elif key == "outbound.allow" and any(
                network.overlaps(other) for other in _LINK_LOCAL if other.version == network.version
            ):
                yield f"{key}: {text} covers link-local addresses, which are never called: clouds give secrets there"


def _network(text: str) -> Network | None:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        return None


def _lifetimes(settings: Settings) -> Iterator[str]:
    access = settings.access
    for key, value, most, unit in (
        ("token_minutes", access.token_minutes, _LONG_TOKEN_MINUTES, "minutes"),
        ("session_hours", access.session_hours, _LONG_SESSION_HOURS, "hours"),
        ("offline_days", access.offline_days, _LONG_OFFLINE_DAYS, "days"),
    ):
        if value > most:
            yield f"access.{key}: {value:g} {unit} is long for something that can be stolen"


def _server_tls(settings: Settings) -> Iterator[tuple[str, Tls]]:
    for name, tls in (("http", settings.http.tls), ("mllp", settings.mllp.tls), ("dicom", settings.dicom.tls)):
        if tls is not None:
            yield f"{name}.tls", tls


def _peer_tls(settings: Settings) -> Iterator[tuple[str, PeerTls]]:
    for destination in settings.outbound.destinations:
        if destination.tls is not None:
            yield f"outbound.destinations.{destination.name}.tls", destination.tls
    for endpoint in settings.outbound.endpoints:
        if endpoint.tls is not None:
            yield f"outbound.endpoints.{endpoint.url}.tls", endpoint.tls
    nats = settings.outbound.nats
    if nats is not None and nats.tls is not None:
        yield "outbound.nats.tls", nats.tls


def _certificates(settings: Settings) -> Iterator[str]:
    now = datetime.now(UTC)
    for key, file in _certificate_files(settings):
        ends = expiry(file)
        if ends is None:
            yield f"{key}: {file} holds no certificate in PEM"
        elif ends <= now:
            yield f"{key}: {file} has expired on {ends:%Y-%m-%d}"
        elif ends - now <= _SOON:
            yield f"{key}: {file} expires on {ends:%Y-%m-%d}"


def _certificate_files(settings: Settings) -> Iterator[tuple[str, Path]]:
    for key, tls in _server_tls(settings):
        yield f"{key}.certificate", tls.certificate
        if tls.client_ca is not None:
            yield f"{key}.client_ca", tls.client_ca
    for key, peer in _peer_tls(settings):
        for name, file in (("certificate", peer.certificate), ("authority", peer.authority)):
            if file is not None:
                yield f"{key}.{name}", file


def _files(settings: Settings, file: Path | None) -> Iterator[str]:
    if file is not None:
        written = list(_secrets_in(Settings, read(file)))
        for key in written:
            yield f"{key}: a secret stands in {file}; {key}_file or the environment keeps it apart"
        if written and _others_may_read(file):
            yield f"{file}: holds secrets and can be read by others; chmod 600"
    for key, secret in _secret_files(settings):
        if _others_may_read(secret):
            yield f"{key}: {secret} can be read by others; chmod 600"
    for name in ("site.key", "token.key"):
        made = settings.data_dir / name
        if made.exists() and _others_may_read(made):
            yield f"data_dir: {made} can be read by others; chmod 600"


def _secret_files(settings: Settings) -> Iterator[tuple[str, Path]]:
    for key, tls in _server_tls(settings):
        yield f"{key}.key", tls.key
    for key, peer in _peer_tls(settings):
        if peer.key is not None:
            yield f"{key}.key", peer.key
    for endpoint in settings.outbound.endpoints:
        if endpoint.hmac_secret_file is not None:
            yield f"outbound.endpoints.{endpoint.url}.hmac_secret_file", endpoint.hmac_secret_file
    mail, nats = settings.outbound.mail, settings.outbound.nats
    if mail is not None and mail.password_file is not None:
        yield "outbound.mail.password_file", mail.password_file
    if nats is not None and nats.credentials is not None:
        yield "outbound.nats.credentials", nats.credentials
    if settings.database_url_file is not None:
        yield "database_url_file", settings.database_url_file
    for provider in settings.access.providers:
        if provider.client_secret_file is not None:
            yield f"access.providers.{provider.name}.client_secret_file", provider.client_secret_file


def _secrets_in(model: type[BaseModel], values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Keys of a file whose values are secret; of database_url only one with a password."""
    for key, value in values.items():
        field = model.model_fields.get(key)
        kinds = (field.annotation, *get_args(field.annotation)) if field else ()
        if SecretStr in kinds:
            if value and not (key == "database_url" and "@" not in str(value)):
                yield f"{prefix}{key}"
            continue
        for section in (kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)):
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, dict):
                    yield from _secrets_in(section, part, f"{prefix}{key}.")


def _others_may_read(file: Path) -> bool:
    return bool(file.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))
