"""What a client may register as."""

from __future__ import annotations

from typing import Any

import pytest

from wetread.access.clients import registration
from wetread.errors import InvalidInput, Misconfigured

APP: dict[str, Any] = {
    "name": "Growth Chart",
    "kind": "public",
    "scope": "launch openid fhirUser offline_access patient/*.rs patient/Observation.rs?category=laboratory",
    "redirect_uris": ["https://apps.example.org/callback"],
    "grant_types": ["authorization_code", "refresh_token"],
}
MACHINE: dict[str, Any] = {
    "name": "Registry",
    "kind": "asymmetric",
    "scope": "system/*.rs",
    "grant_types": ["client_credentials"],
    "jwks_uri": "https://registry.example.org/jwks.json",
}
PUBLIC_KEY = {"kty": "EC", "crv": "P-384", "x": "x", "y": "y"}


def test_an_app_and_a_machine_register() -> None:
    assert registration.checked(**APP).redirect_uris == ("https://apps.example.org/callback",)
    assert registration.checked(**MACHINE).grant_types == {"client_credentials"}


@pytest.mark.parametrize(
    "uri",
    [
        "https://apps.example.org/callback?tenant=7",
        "https://apps.example.org:8443/callback",
        "http://127.0.0.1:9999/callback",
        "http://[::1]/callback",
        "http://localhost/callback",
        "org.example.growth:/callback",
        "org.example.growth://callback",
    ],
)
def test_people_are_sent_back_over_https_to_this_machine_or_to_an_app_of_their_device(uri: str) -> None:
    registration.check_redirect_uri(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "/callback",
        "//apps.example.org/callback",
        "https://apps.example.org/callback#x",
        "https://apps.example.org/callback#",
        "http://apps.example.org/callback",
        "http://127.0.0.1.evil.example/callback",
        "http://localhost.evil.example/callback",
        "http://127.0.0.1@evil.example/callback",
        "https://apps.example.org@evil.example/callback",
        "https://*.example.org/callback",
        "https://apps.example.org\\@evil.example/",
        "https://apps.example.org/call back",
        "https://apps.example.org/call\r\nback",
        "https:///callback",
        "https:callback",
        "https://apps.example.org:x/",
        "https://[::1/",
        "javascript:alert(1)",
        "data:text/html,x",
        "file:///etc/passwd",
        "urn:ietf:wg:oauth:2.0:oob",
        "https://\u0430pps.example.org/callback",
        "https://apps.example.org;script-src/callback",
        "https://apps.example.org,evil.example/callback",
        "https://apps.example.org'/callback",
        "https://apps.example.org&x=(1)/callback",
    ],
)
def test_people_are_sent_nowhere_else(uri: str) -> None:
    with pytest.raises(InvalidInput):
        registration.check_redirect_uri(uri)


@pytest.mark.parametrize(
    "change",
    [
        {"name": " "},
        {"name": "Growth\nChart"},
        {"kind": "confidential"},
        {"scope": "patient/*.rs admin"},
        {"scope": "patient/*.sr"},
        {"scope": "launch/Patient"},
        {"redirect_uris": []},
        {"redirect_uris": ["http://evil.example/"]},
        {"launch_uri": "javascript:alert(1)"},
        {"grant_types": ["password"]},
        {"grant_types": ["refresh_token"]},
        {"grant_types": ["client_credentials"]},
        {"jwks_uri": "https://registry.example.org/jwks.json"},
        {"jwks": {"keys": [PUBLIC_KEY]}},
        {"roles": ["administrator"]},
        {"networks": ["10.0.0.1/8"]},
        {"networks": ["everywhere"]},
    ],
)
def test_what_would_open_more_than_it_says_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        registration.checked(**{**APP, **change})


def test_a_role_that_there_is_not_is_refused() -> None:
    with pytest.raises(Misconfigured):
        registration.checked(**{**MACHINE, "roles": ["wizard"]})


@pytest.mark.parametrize(
    "keys",
    [
        {"jwks_uri": ""},
        {"jwks": {"keys": [PUBLIC_KEY]}},
        {"jwks_uri": "", "jwks": {}},
        {"jwks_uri": "", "jwks": {"keys": []}},
        {"jwks_uri": "", "jwks": {"keys": ["x"]}},
        {"jwks_uri": "", "jwks": {"keys": [{**PUBLIC_KEY, "d": "private"}]}},
        {"jwks_uri": "", "jwks": {"keys": [{"kty": "oct", "k": "secret"}]}},
        {"jwks_uri": "", "jwks": {"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "x"}]}},
        {"jwks_uri": "http://registry.example.org/jwks.json"},
    ],
)
def test_a_key_pair_registers_by_its_public_half_in_one_place(keys: dict[str, Any]) -> None:
    registration.checked(**{**MACHINE, "jwks_uri": "", "jwks": {"keys": [PUBLIC_KEY]}})
    with pytest.raises(InvalidInput):
        registration.checked(**{**MACHINE, **keys})


@pytest.mark.parametrize("client_id", ["", "A", "a b", "a/b", "a:b", "-a", "a" * 65, "a\n"])
def test_an_id_stands_in_urls_and_records_as_it_is(client_id: str) -> None:
    with pytest.raises(InvalidInput):
        registration.check_client_id(client_id)
