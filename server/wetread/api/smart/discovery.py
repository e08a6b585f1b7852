"""What an app can find out before it has a token (SMART App Launch 2.2 conformance.html, OpenID Connect Discovery 1.0).

Public, the same for everybody, and of no patient.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.responses import JSONResponse

from wetread.access.clients.assertions import ALGORITHMS
from wetread.access.oauth.core import AUTHENTICATED, INTROSPECT, Authority
from wetread.access.oauth.signing_keys import ALGORITHM

CAPABILITIES = (
    "launch-ehr",
    "launch-standalone",
    "authorize-post",
    "client-public",
    "client-confidential-symmetric",
    "client-confidential-asymmetric",
    "sso-openid-connect",
    "context-banner",
    "context-style",
    "context-ehr-patient",
    "context-ehr-encounter",
    "context-standalone-patient",
    "context-standalone-encounter",
    "permission-offline",
    "permission-online",
    "permission-patient",
    "permission-user",
    "permission-v1",
    "permission-v2",
)
SCOPES = (
    *("openid", "profile", "fhirUser", "launch", "launch/patient", "launch/encounter"),
    *("offline_access", "online_access", INTROSPECT),
    *(f"{level}/*.{letters}" for level in ("patient", "user", "system") for letters in ("cruds", "rs", "read")),
)
STYLE = {
    "color_background": "#ffffff",
    "color_error": "#a3001b",
    "color_highlight": "#14506b",
    "color_modal_backdrop": "",
    "color_success": "#1d6b2f",
    "color_text": "#16202a",
    "dim_border_radius": "5px",
    "dim_font_size": "16px",
    "dim_spacing_size": "16px",
    "font_family_body": "system-ui, sans-serif",
    "font_family_heading": "system-ui, sans-serif",
}
"""scopes-and-launch-context.html#styling: the colours of the console."""


def router(authority: Authority) -> APIRouter:
    routes = APIRouter(include_in_schema=False)

    @routes.api_route("/fhir/.well-known/smart-configuration", methods=_READING)
    async def smart_configuration() -> JSONResponse:
        """JSON whatever the request accepts (conformance.html#using-well-known)."""
        return JSONResponse(_smart(authority), headers=_FOR_A_WHILE)

    @routes.api_route("/.well-known/openid-configuration", methods=_READING)
    async def openid_configuration() -> JSONResponse:
        return JSONResponse(_openid(authority), headers=_FOR_A_WHILE)

    @routes.api_route("/oauth/jwks.json", methods=_READING)
    async def jwks() -> JSONResponse:
        return JSONResponse(authority.signing_keys.jwks(), headers=_FOR_A_WHILE)

    @routes.api_route("/oauth/smart-style.json", methods=_READING)
    async def style() -> JSONResponse:
        return JSONResponse(STYLE, headers=_FOR_A_WHILE)

    return routes


_READING = ["GET", "HEAD"]
_FOR_A_WHILE = {"Cache-Control": "public, max-age=300"}


def _endpoints(authority: Authority) -> dict[str, Any]:
    ways = ["none", *AUTHENTICATED]
    return {
        "issuer": authority.issuer,
        "jwks_uri": authority.url("jwks.json"),
        "authorization_endpoint": authority.url("authorize"),
        "token_endpoint": authority.url("token"),
        "token_endpoint_auth_methods_supported": ways,
        "token_endpoint_auth_signing_alg_values_supported": list(ALGORITHMS),
        "introspection_endpoint": authority.url("introspect"),
        "introspection_endpoint_auth_methods_supported": [*AUTHENTICATED, "Bearer"],
        "revocation_endpoint": authority.url("revoke"),
        "revocation_endpoint_auth_methods_supported": ways,
        "grant_types_supported": ["authorization_code", "refresh_token", "client_credentials"],
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "scopes_supported": list(SCOPES),
        "code_challenge_methods_supported": ["S256"],
        "authorization_response_iss_parameter_supported": True,
    }


def _smart(authority: Authority) -> dict[str, Any]:
    return {
        **_endpoints(authority),
        "management_endpoint": f"{authority.issuer}/account/apps",
        "capabilities": list(CAPABILITIES),
    }


def _openid(authority: Authority) -> dict[str, Any]:
    """OpenID Connect Discovery 1.0, 3."""
    return {
        **_endpoints(authority),
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": [ALGORITHM],
        "claims_supported": ["iss", "sub", "aud", "exp", "iat", "nonce", "auth_time", "fhirUser", "name"],
        "claims_parameter_supported": False,
        "request_parameter_supported": False,
        "request_uri_parameter_supported": False,
    }
