"""What the audit keeps of a request to the authorization server."""

from __future__ import annotations

import pytest

from wetread.access.oauth.request import Asked, recorded


@pytest.mark.parametrize(
    "name",
    ["client_secret", "Client_Secret", "clientsecret", "code_verifier", "password", "access_token", "code "],
)
def test_a_value_is_kept_only_of_a_parameter_that_is_known_to_hold_no_secret(name: str) -> None:
    kept = recorded(Asked("POST", "https://here/oauth/token", (("scope", "openid"), (name, "s3cret")))).decode()
    assert kept.startswith("scope=openid&")
    assert "s3cret" not in kept


@pytest.mark.parametrize("name", ["code", "refresh_token", "launch", "token"])
def test_what_could_be_used_once_more_is_known_by_its_digest(name: str) -> None:
    kept = recorded(Asked("POST", "https://here/oauth/token", ((name, "s3cret"),))).decode()
    assert "sha256%3A" in kept
    assert "s3cret" not in kept
