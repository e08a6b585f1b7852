"""A request to the authorization server, and its answer, free of any web framework; and the form that Authlib reads."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode

from authlib.oauth2.rfc6749 import InvalidRequestError, OAuth2Payload, OAuth2Request

from wetread.access.secrets import digest
from wetread.errors import InvalidInput

_SHOWN = frozenset(
    {
        "aud",
        "client_assertion_type",
        "client_id",
        "code_challenge",
        "code_challenge_method",
        "display",
        "grant_type",
        "iss",
        "login_hint",
        "max_age",
        "nonce",
        "prompt",
        "redirect_uri",
        "response_mode",
        "response_type",
        "scope",
        "state",
        "token_type_hint",
    }
)
_DIGESTED = frozenset({"code", "refresh_token", "token", "launch", "assertion"})
_MOST_PARAMETERS = 60


@dataclass(frozen=True, slots=True)
class Asked:
    """`url` is the endpoint's as the world knows it; `parameters` are the query's or the form's, in their order;
    `headers` have names in small letters; `network` is the peer's address."""

    method: str
    url: str
    parameters: tuple[tuple[str, str], ...]
    headers: Mapping[str, str] = field(default_factory=dict)
    network: str = ""
    request_id: str = ""

    def one(self, name: str) -> str:
        """The first value of a parameter, empty where there is none."""
        return next((value for key, value in self.parameters if key == name), "")


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: Any
    headers: Sequence[tuple[str, str]]

    @property
    def error(self) -> str:
        """The error of RFC 6749 5.2; empty where there is none."""
        return str(self.body.get("error", "")) if self.status >= 400 and isinstance(self.body, dict) else ""

    @property
    def location(self) -> str:
        """Where a redirect leads, else empty."""
        return next((value for name, value in self.headers if name.lower() == "location"), "")


def parameters(encoded: bytes) -> tuple[tuple[str, str], ...]:
    """Of a query or an application/x-www-form-urlencoded body, those without a value left out (RFC 6749 3.1).

    Raises InvalidInput for what is not UTF-8, or too much.
    """
    try:
        pairs = parse_qsl(
            encoded.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MOST_PARAMETERS
        )
    except ValueError as error:
        raise InvalidInput("the parameters are not URL-encoded UTF-8, or there are too many") from error
    if any("\x00" in part for pair in pairs for part in pair):
        raise InvalidInput("a parameter holds U+0000")
    return tuple((name, value) for name, value in pairs if value)


def recorded(asked: Asked) -> bytes:
    """The request for the audit: without secrets, verifiers, signatures and what is not known, and with a digest in the
    place of what could be used once more (IHE BALP, IUA "Get Access Token")."""
    shown = []
    for name, value in asked.parameters:
        if name in _DIGESTED:
            shown.append((name, f"sha256:{digest(value).hex()[:16]}"))
        elif name == "client_assertion":
            shown.append((name, value.rpartition(".")[0]))
        else:
            # A parameter that is not known may be a secret whose name was written wrong.
            shown.append((name, value if name in _SHOWN else "-"))
    return urlencode(shown).encode()


def as_authlib(asked: Asked) -> OAuth2Request:
    """Raises InvalidRequestError where a parameter comes twice (RFC 6749 3.1 and 3.2), InsecureTransportError where the
    endpoint is neither https nor on this machine."""
    request = _Request(asked.method, asked.url, headers={name.title(): value for name, value in asked.headers.items()})
    request.payload = _Payload(asked.parameters)
    if any(len(values) > 1 for values in request.payload.datalist.values()):
        raise InvalidRequestError("A parameter comes twice.")
    return request


class _Payload(OAuth2Payload):  # type: ignore[misc]
    def __init__(self, pairs: Sequence[tuple[str, str]]) -> None:
        self._lists: defaultdict[str, list[str]] = defaultdict(list)
        for name, value in pairs:
            self._lists[name].append(value)

    @property
    def data(self) -> dict[str, str]:
        return {name: values[0] for name, values in self._lists.items()}

    @property
    def datalist(self) -> defaultdict[str, list[str]]:
        return self._lists


class _Request(OAuth2Request):  # type: ignore[misc]
    @property
    def args(self) -> dict[str, str]:
        return self.payload.data  # type: ignore[no-any-return]

    @property
    def form(self) -> dict[str, str]:
        return self.payload.data  # type: ignore[no-any-return]
