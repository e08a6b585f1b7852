"""The endpoints of the authorization server: from a request to its answer, in one transaction with the AuditEvent.

The core of the protocol is Authlib's; see `oauth_core` for how it sits on our tables, and
docs/decisions/0022-authorization-server.md for why.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from authlib.oauth2.rfc6749 import InsecureTransportError, InvalidRequestError, OAuth2Error

from wetread.access.clients import clients
from wetread.access.clients.assertions import claimed
from wetread.access.oauth.core import Authority, Core, Given
from wetread.access.oauth.endpoints import Introspection, Revocation, facts
from wetread.access.oauth.grant_types import BackendGrant, CodeGrant, OpenId, Pkce, RefreshGrant
from wetread.access.oauth.request import Answer, Asked, as_authlib, recorded
from wetread.access.oauth.waiting import in_thread
from wetread.record.audit import audit

_Keys: TypeAlias = Sequence[Mapping[str, Any]]


class TokenService:
    """The endpoints that apps call from behind: token, introspection, revocation."""

    def __init__(self, authority: Authority) -> None:
        self.authority = authority

    async def token(self, asked: Asked) -> Answer:
        """RFC 6749 3.2: an access token, or the error of 5.2."""
        keys = await self._keys(asked)
        async with self.authority.database.transaction() as conn:
            core = Core(self.authority, conn, asked.network, keys)
            core.register_grant(CodeGrant, [Pkce(required=True), OpenId(self.authority)])
            core.register_grant(RefreshGrant)
            core.register_grant(BackendGrant)
            answer = await _answered(core.create_token_response, asked)
            await audit.write(conn, _issued(asked, answer, core.given))
        return answer

    async def introspect(self, asked: Asked) -> Answer:
        """RFC 7662 2."""
        keys = await self._keys(asked)
        async with self.authority.database.transaction() as conn:
            core = Core(self.authority, conn, asked.network, keys)
            core.register_endpoint(Introspection)
            answer = await _answered(lambda request: core.create_endpoint_response("introspection", request), asked)
            await audit.write(conn, _entry(asked, answer, "token-introspected", "R"))
        return answer

    async def revoke(self, asked: Asked) -> Answer:
        """RFC 7009 2."""
        keys = await self._keys(asked)
        async with self.authority.database.transaction() as conn:
            core = Core(self.authority, conn, asked.network, keys)
            endpoint = Revocation(core)
            core.register_endpoint(endpoint)
            answer = await _answered(lambda request: core.create_endpoint_response("revocation", request), asked)
            detail = facts(endpoint.ended) if endpoint.ended else {}
            await audit.write(conn, _entry(asked, answer, "access-withdrawn", "D", detail))
        return answer

    async def _keys(self, asked: Asked) -> _Keys:
        """The keys of the client that an assertion names, had before the transaction: they may come from afar."""
        client_id, kid = claimed(asked.one("client_assertion"))
        if not client_id or "\x00" in client_id:
            return ()
        async with self.authority.database.statements() as conn:
            client = await clients.by_id(conn, client_id)
        return await self.authority.client_keys.of(client, kid) if client else ()


async def _answered(respond: Callable[[Any], Any], asked: Asked) -> Answer:
    def work() -> Answer:
        try:
            request = as_authlib(asked)
        except (InvalidRequestError, InsecureTransportError) as error:
            return _refusal(error)
        answer: Answer = respond(request)
        return answer

    return await in_thread(work)


def _refusal(error: OAuth2Error) -> Answer:
    status, body, headers = error()
    return Answer(status, body, tuple(headers))


def _issued(asked: Asked, answer: Answer, given: Given | None) -> audit.AuditEntry:
    """A token's issue, in the shape of IHE BALP's IUA profile (the app, the person, the request); refusals too."""
    if given is None:
        return _entry(asked, answer, "token-issued", "E")
    detail = {"scope": given.scope, "expires-s": str(given.issued.expires_s)}
    if given.behind:
        detail |= {"grant": given.behind.grant.id, "patient": str(given.behind.grant.context.get("patient", ""))}
    entry = _entry(asked, answer, "token-issued", "E", detail, given.client_id)
    user = given.behind.account.name if given.behind else ""
    return replace(entry, user=user, client_id=given.client_id, token_id=given.issued.token_id)


def _entry(
    asked: Asked,
    answer: Answer,
    kind: str,
    action: str,
    detail: Mapping[str, str] | None = None,
    client_id: str = "",
) -> audit.AuditEntry:
    return audit.AuditEntry(
        kind=kind,
        action=action,
        outcome="4" if answer.error else "0",
        outcome_text=answer.error,
        principal=client_id or _named(asked) or "anonymous",
        network=asked.network,
        entities=(audit.Entity(role_code="24", query=recorded(asked), detail=detail or {}),),
        request_id=asked.request_id,
    )


def _named(asked: Asked) -> str:
    """Who the request says it is from; of one that was refused nothing more is known."""
    scheme, _, given = asked.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        with contextlib.suppress(ValueError):
            return base64.b64decode(given, validate=True).decode().partition(":")[0][:64]
    return (asked.one("client_id") or claimed(asked.one("client_assertion"))[0])[:64]
