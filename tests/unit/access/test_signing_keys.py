"""The keys of id_tokens: one signs, the one before is still published."""

from __future__ import annotations

from pathlib import Path

import pytest

from wetread.access.oauth.signing_keys import SigningKeys
from wetread.errors import Misconfigured


def test_the_key_is_made_once_and_only_its_public_half_is_published(tmp_path: Path) -> None:
    file = tmp_path / "id_token.keys"
    keys = SigningKeys(file)
    (published,) = keys.jwks()["keys"]
    assert file.stat().st_mode & 0o777 == 0o600
    assert SigningKeys(file).jwks() == keys.jwks()
    assert published.keys() == {"kty", "n", "e", "kid", "use", "alg"}
    assert (published["kid"], published["alg"]) == (keys.current().kid, "RS256")


def test_after_a_rotation_the_new_key_signs_and_the_one_before_stays_published(tmp_path: Path) -> None:
    serving, operator = SigningKeys(tmp_path / "keys"), SigningKeys(tmp_path / "keys")
    first = serving.current().kid
    second = operator.rotate()
    assert [key["kid"] for key in serving.jwks()["keys"]] == [second, first]
    assert serving.current().kid == second
    third = operator.rotate()
    assert [key["kid"] for key in serving.jwks()["keys"]] == [third, second]
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o600


def test_keys_that_others_may_read_are_refused(tmp_path: Path) -> None:
    SigningKeys(tmp_path / "keys").current()
    (tmp_path / "keys").chmod(0o640)
    with pytest.raises(Misconfigured, match="0600"):
        SigningKeys(tmp_path / "keys").current()
