"""Tokens of the local operator: issued, verified, refused."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey

from wetread.access.tokens import Tokens, signing_key
from wetread.errors import InvalidInput, Misconfigured, Unauthorized

HOUR = timedelta(hours=1)


@pytest.fixture
def key(tmp_path: Path) -> ECKey:
    return signing_key(tmp_path / "token.key")


def test_a_token_becomes_the_reader_it_was_made_for(key: ECKey) -> None:
    tokens = Tokens(key, "urn:here")
    issued = tokens.issue("operator:ana", "system/Patient.rs user/*.s", ("auditor",), HOUR)
    reader = tokens.verify(issued.token)
    assert (reader.principal, reader.roles, reader.token_id) == ("operator:ana", {"auditor"}, issued.token_id)
    assert reader.may("r", "Patient")
    assert not reader.may("u", "Patient")


def test_a_scope_that_smart_does_not_know_is_not_issued(key: ECKey) -> None:
    with pytest.raises(InvalidInput):
        Tokens(key, "urn:here").issue("x", "system/*.cruds root/*.r", (), HOUR)


def test_a_token_is_good_for_its_server_its_key_and_its_time(key: ECKey) -> None:
    tokens = Tokens(key, "urn:here")
    for other in (
        Tokens(key, "urn:there").issue("x", "system/*.r", (), HOUR),
        Tokens(ECKey.generate_key("P-256", private=True), "urn:here").issue("x", "system/*.r", (), HOUR),
        tokens.issue("x", "system/*.r", (), timedelta(seconds=-1)),
    ):
        with pytest.raises(Unauthorized):
            tokens.verify(other.token)


def test_a_token_that_was_verified_once_expires_nevertheless(key: ECKey, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = Tokens(key, "urn:here")
    issued = tokens.issue("x", "system/*.r", (), HOUR)
    tokens.verify(issued.token)
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now + 3601)
    with pytest.raises(Unauthorized):
        tokens.verify(issued.token)


def test_a_token_that_never_expires_is_refused(key: ECKey) -> None:
    claims = {"iss": "urn:wetread:local", "aud": "urn:here", "sub": "x", "scope": "system/*.r", "roles": [], "jti": "1"}
    with pytest.raises(Unauthorized):
        Tokens(key, "urn:here").verify(jwt.encode({"alg": "ES256"}, claims, key))


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "token.key"
    signing_key(file)
    assert file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o644)
    with pytest.raises(Misconfigured, match="0600"):
        signing_key(file)
