"""What the owner of something that goes on by itself, as a subscription does, may read at this moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from wetread.access.clients import clients
from wetread.access.clients.clients import Client
from wetread.access.clients.known import holder
from wetread.access.names import is_of_this_machine
from wetread.access.oauth import grants
from wetread.access.people import accounts
from wetread.access.rights import narrowed
from wetread.domain.reader import Reader, Scope
from wetread.store.database import Connection


async def reader_now(conn: Connection, owner: Mapping[str, Any]) -> Reader | None:
    """The owner as kept by `record.subscriptions.rows.owner_row`, with what of the rights of then is still theirs: that
    of the scopes which the client is registered for, and of both scopes and roles what the person may do.

    None where nothing is: the client or the person is disabled or gone, or the person's grant to the client is over. A
    grant that hangs on a login is over with it; one of `offline_access` is not (SMART App Launch 2.2
    scopes-and-launch-context.html#scopes-for-requesting-a-refresh-token). That the token which made it has expired, or
    that an API key has been replaced, ends nothing.
    """
    kept = Reader(
        owner["principal"],
        tuple(Scope.parse(text) for text in owner["scopes"]),
        frozenset(owner["roles"]),
        owner.get("patient_id"),
        client_id=owner.get("client_id"),
        grant_id=owner.get("grant_id"),
    )
    client = await clients.by_id(conn, kept.client_id) if kept.client_id else None
    if kept.client_id and client is None:
        return None
    if client is not None and kept.principal == client.client_id:
        return _within(kept, holder(client, None, None))
    if is_of_this_machine(kept.principal):
        return kept
    return await _person(conn, kept, client)


async def _person(conn: Connection, kept: Reader, client: Client | None) -> Reader | None:
    account = await accounts.by_name(conn, kept.principal)
    if account is None or account.disabled_at is not None:
        return None
    if kept.grant_id and not await grants.stands(conn, kept.grant_id):
        return None
    of_client = kept if client is None else replace(kept, scopes=narrowed(kept.scopes, client.scopes))
    return _within(of_client, account.reader())


def _within(kept: Reader, most: Reader) -> Reader:
    return replace(kept, scopes=narrowed(kept.scopes, most.scopes), roles=kept.roles & most.roles)
