"""What a client may register as: kinds, grants, scopes and redirect URIs (RFC 7591 2, SMART App Launch 2.2)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import SplitResult, urlsplit

from wetread.access import rights
from wetread.domain.reader import Scope
from wetread.errors import InvalidInput
from wetread.record.scopes import checked_scopes

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

KINDS = ("public", "symmetric", "asymmetric")
"""Without a secret; with a secret; with a key pair of its own (SMART App Launch 2.2 client-confidential-*.html)."""
GRANTS = ("authorization_code", "refresh_token", "client_credentials")

_WORDS = frozenset({"openid", "profile", "fhirUser", "launch", "offline_access", "online_access", "introspect"})
_LAUNCH = re.compile(r"launch/[a-z]{1,40}")
_RESOURCE = re.compile(r"(patient|user|system)/")
_CLIENT_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
# RFC 8252 7.1: an app's own scheme is a domain name in reverse, so it has a period; javascript: and data: have none.
_OWN_SCHEME = re.compile(r"[a-z][a-z0-9+-]*(\.[a-z0-9+-]+)+", re.IGNORECASE)
_HOST = re.compile(r"[a-z0-9._-]+|[0-9a-f:.]+")  # a name as it is resolved, or an address
_URI = re.compile(r"[A-Za-z0-9._~:/?@!$&'()*+,;=%\[\]-]+")  # RFC 3986 2, without the fragment's mark


@dataclass(frozen=True, slots=True)
class Registration:
    """A client as it wants to be known. `checked` makes one."""

    name: str
    kind: str
    redirect_uris: tuple[str, ...]
    launch_uri: str
    grant_types: frozenset[str]
    scope: str
    roles: frozenset[str]
    jwks: Mapping[str, Any] | None
    jwks_uri: str
    networks: tuple[Network, ...]


def checked(
    *,
    name: str,
    kind: str,
    scope: str,
    redirect_uris: Iterable[str] = (),
    launch_uri: str = "",
    grant_types: Iterable[str] = (),
    roles: Iterable[str] = (),
    jwks: Mapping[str, Any] | None = None,
    jwks_uri: str = "",
    networks: Iterable[str] = (),
) -> Registration:
    """Raises InvalidInput for what RFC 7591 2 or SMART App Launch 2.2 would not have, Misconfigured for a role that
    there is not."""
    wanted = Registration(
        name.strip(),
        kind,
        tuple(dict.fromkeys(redirect_uris)),
        launch_uri,
        frozenset(grant_types),
        " ".join(dict.fromkeys(scope.split())),
        rights.checked(roles),
        jwks,
        jwks_uri,
        tuple(_network(text) for text in networks),
    )
    if not wanted.name or any(not char.isprintable() for char in wanted.name):
        raise InvalidInput("a client has a name that people can read")
    if kind not in KINDS:
        raise InvalidInput(f"a client is one of {', '.join(KINDS)}")
    if unknown := sorted(wanted.grant_types - set(GRANTS)):
        raise InvalidInput(f"no such grant: {', '.join(unknown)}; there are {', '.join(GRANTS)}")
    _check_grants(wanted)
    _check_keys(wanted)
    for word in wanted.scope.split():
        check_scope(word)
    for uri in wanted.redirect_uris:
        check_redirect_uri(uri)
    if launch_uri:
        check_web_uri(launch_uri)
    return wanted


def _check_grants(wanted: Registration) -> None:
    if "client_credentials" in wanted.grant_types and wanted.kind == "public":
        raise InvalidInput("a public client cannot get tokens for itself: it has nothing to prove who it is")
    if wanted.roles and wanted.kind == "public":
        raise InvalidInput("a public client has no roles: it acts for people only")
    if "authorization_code" in wanted.grant_types and not wanted.redirect_uris:
        raise InvalidInput("the authorization_code grant needs a redirect URI")
    if "refresh_token" in wanted.grant_types and "authorization_code" not in wanted.grant_types:
        raise InvalidInput("the refresh_token grant needs authorization_code beside it")


def _check_keys(wanted: Registration) -> None:
    if wanted.kind == "asymmetric" and (wanted.jwks is None) == (not wanted.jwks_uri):
        raise InvalidInput("an asymmetric client has its public keys in a JWKS or at a jwks_uri, one of both")
    if wanted.kind != "asymmetric" and (wanted.jwks is not None or wanted.jwks_uri):
        raise InvalidInput("only an asymmetric client has keys")
    if wanted.jwks_uri:
        check_web_uri(wanted.jwks_uri)
    if wanted.jwks is None:
        return
    keys = wanted.jwks.get("keys")
    if not isinstance(keys, list) or not keys or not all(isinstance(key, dict) for key in keys):
        raise InvalidInput("a JWKS is an object with a list `keys` (RFC 7517 5)")
    if any(key.get("kty") not in ("RSA", "EC") for key in keys):
        raise InvalidInput("the JWKS holds a key of a kind other than RSA and EC, which RS384 and ES384 need")
    if any("d" in key for key in keys):
        raise InvalidInput("the JWKS holds a private key; give the public ones only")


def check_client_id(client_id: str) -> str:
    """Raises InvalidInput on what would need an escape in a URL or an audit record."""
    if not _CLIENT_ID.fullmatch(client_id):
        raise InvalidInput("a client's id is of a-z 0-9 . _ -, at most 64 characters")
    return client_id


def is_resource_scope(word: str) -> bool:
    return bool(_RESOURCE.match(word))


def check_scope(word: str) -> None:
    """Raises InvalidInput for a word that is neither of SMART App Launch 2.2 (scopes-and-launch-context.html) nor our
    own `introspect`."""
    if is_resource_scope(word):
        checked_scopes([Scope.parse(word)])
    elif word not in _WORDS and not _LAUNCH.fullmatch(word):
        raise InvalidInput(f"not a SMART scope: {word!r}")


def check_redirect_uri(uri: str) -> None:
    """Absolute, without fragment (RFC 6749 3.1.2), over https, to this machine (RFC 8252 7.3), or by an app's own
    scheme (RFC 8252 7.1). Raises InvalidInput."""
    parts = _parts(uri)
    if _OWN_SCHEME.fullmatch(parts.scheme):
        return
    check_web_uri(uri)


def check_web_uri(uri: str) -> None:
    """https, or http on loopback; a host, and no user in front of it. Raises InvalidInput."""
    parts = _parts(uri)
    if parts.scheme not in ("http", "https") or not _HOST.fullmatch(parts.hostname or ""):
        raise InvalidInput(f"not an absolute https URI: {uri!r}")
    if parts.username is not None or parts.password is not None or "*" in parts.netloc:
        raise InvalidInput(f"{uri!r} has a user or a wildcard before its path")
    if parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "::1", "localhost"):
        raise InvalidInput(f"{uri!r}: http leads to this machine only; use https")


def _parts(uri: str) -> SplitResult:
    if not _URI.fullmatch(uri):
        raise InvalidInput(f"not a URI without fragment: {uri!r}")
    try:
        parts = urlsplit(uri)
        _ = parts.port
    except ValueError:
        raise InvalidInput(f"not a URI: {uri!r}") from None
    if not parts.scheme:
        raise InvalidInput(f"not an absolute URI: {uri!r}")
    return parts


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        raise InvalidInput(f"{text!r} is not a network; expected e.g. 10.1.0.0/16 or 10.1.2.3/32") from None
