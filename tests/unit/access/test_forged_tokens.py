"""Bearer tokens that were made, changed or meant for something else; made with a JWT library that is not ours."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc.jwk import ECKey

from wetread.access.tokens import Basis, Tokens, signing_key
from wetread.errors import Unauthorized

ISSUER, AUDIENCE = "urn:wetread:local", "urn:here"


@pytest.fixture
def key(tmp_path: Path) -> ECKey:
    return signing_key(tmp_path / "token.key")


@pytest.fixture
def tokens(key: ECKey) -> Tokens:
    return Tokens(key, AUDIENCE)


def claims(**changed: Any) -> dict[str, Any]:
    now = int(time.time())
    good = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "ana",
        "iat": now,
        "exp": now + 60,
        "jti": "1",
        "scope": "user/*.rs",
        "roles": [],
    }
    return {name: value for name, value in {**good, **changed}.items() if value is not None}


def part(content: Mapping[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()


def made(key: ECKey, content: dict[str, Any]) -> str:
    """Signed as it is, whatever its claims are."""
    return jwt.api_jws.encode(json.dumps(content).encode(), key.private_key, algorithm="ES256")


def test_one_of_an_independent_library_under_our_key_counts(tokens: Tokens, key: ECKey) -> None:
    assert tokens.verify(made(key, claims())).principal == "ana"
    ours = tokens.issue("ana", "user/*.rs", (), timedelta(minutes=1), Basis("app", "p1")).token
    read = jwt.decode(ours, key.public_key, algorithms=["ES256"], audience=AUDIENCE, issuer=ISSUER)
    assert (read["client_id"], read["patient_id"], read["scope"]) == ("app", "p1", "user/*.rs")


@pytest.mark.parametrize(
    "changed",
    [
        {"iss": "https://elsewhere.example"},
        {"iss": None},
        {"aud": "urn:there"},
        {"aud": None},
        {"aud": ["urn:there", "urn:elsewhere"]},
        {"exp": int(time.time()) - 1},
        {"exp": None},
        {"exp": "soon"},
        {"nbf": int(time.time()) + 60},
        {"iat": int(time.time()) + 60},
        {"iat": None},
    ],
    ids=str,
)
def test_one_with_a_wrong_claim_is_refused_although_our_key_signed_it(
    tokens: Tokens, key: ECKey, changed: dict[str, Any]
) -> None:
    with pytest.raises(Unauthorized):
        tokens.verify(made(key, claims(**changed)))


def test_one_without_signature_or_with_the_public_key_as_secret_is_refused(tokens: Tokens, key: ECKey) -> None:
    public: ec.EllipticCurvePublicKey = key.public_key
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    jwk = json.dumps(key.as_dict(private=False)).encode()
    forged = [f"{part({'alg': alg})}.{part(claims())}." for alg in ("none", "None", "NONE", "")]
    for secret in (pem, pem.strip(), jwk, b""):
        signing = f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part(claims())}"
        mac = hmac.new(secret, signing.encode(), hashlib.sha256).digest()
        forged.append(f"{signing}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}")
    embedded = ec.generate_private_key(ec.SECP256R1())
    own = ECKey.import_key(embedded).as_dict(private=False)
    forged += [
        jwt.encode(claims(), embedded, algorithm="ES256"),
        jwt.encode(claims(), embedded, algorithm="ES256", headers={"jwk": own}),
        jwt.encode(claims(), embedded, algorithm="ES256", headers={"kid": "../../dev/null"}),
    ]
    for token in forged:
        with pytest.raises(Unauthorized):
            tokens.verify(token)


def test_one_that_was_changed_or_is_no_token_is_refused(tokens: Tokens, key: ECKey) -> None:
    head, body, signature = made(key, claims()).split(".")
    flipped = base64.urlsafe_b64encode(bytes(64)).rstrip(b"=").decode()
    more = part(claims(scope="system/*.cruds", roles=["administrator"]))
    for token in (
        f"{head}.{more}.{signature}",
        f"{head}.{body}.{flipped}",
        f"{head}.{body}.",
        f"{head}.{body}",
        "",
        ".",
        "..",
        "a.b.c",
        "\udcff.\x00.é",
        base64.urlsafe_b64encode(b"[" * 30_000).decode() + "..",
        "x" * 100_000,
    ):
        with pytest.raises(Unauthorized):
            tokens.verify(token)
