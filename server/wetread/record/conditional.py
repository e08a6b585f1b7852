"""Updates by a search in place of an id (FHIR R4 3.1.0.10.2)."""

from __future__ import annotations

import uuid

from wetread.domain.reader import Reader
from wetread.errors import Conflict, InvalidInput
from wetread.record import resources
from wetread.record.compartment import visible
from wetread.record.condition import TRUE
from wetread.record.versions import Accepted, Resource, Version
from wetread.store.database import Connection


async def update(
    conn: Connection,
    reader: Reader,
    resource: Resource,
    condition: str,
    *,
    if_match: int | None = None,
    may_create: bool = True,
) -> tuple[Version, bool]:
    """Updates the one match, or creates where there is none; true when it created.

    Raises Forbidden, PreconditionFailed on several matches, InvalidInput where the content's id is not the match's, and
    Conflict where the content's id belongs to a resource that does not match.
    """
    accepted = resources.accept(resource)
    resource_type = accepted.content["resourceType"]
    found = await resources.held_match(conn, reader, resource_type, condition)
    id_, is_ours = identity(accepted.content, found)
    accepted = Accepted(accepted.text, {**accepted.content, "id": id_})
    if found is not None:
        return await resources.update(conn, reader, accepted, if_match=if_match)
    resources.require_version(None, if_match)
    if is_ours:
        made = resources.new(accepted, id_, conn.bases)
        await resources.make(conn, [made])
        version = made.version
        await resources.require_within(conn, reader, "u", version)
        return version, True
    if await is_taken(conn, reader, resource_type, id_):
        raise taken(resource_type)
    return await resources.update(conn, reader, accepted, may_create=may_create)


def identity(content: dict[str, object], found: Version | None) -> tuple[str, bool]:
    """The id under which to write, and whether this server made it up. Raises InvalidInput where content names another
    id than the match's."""
    given = content.get("id")
    if found is not None and given is not None and given != found.id:
        location = f"{content['resourceType']}.id"
        raise InvalidInput("the condition matches a resource of another id", location=location)
    if found is not None:
        return found.id, False
    return (str(given), False) if given is not None else (str(uuid.uuid4()), True)


async def is_taken(conn: Connection, reader: Reader, resource_type: str, id_: str) -> bool:
    """Whether an id is a resource's already; held, too. Who may update a part of the type only is not told: they create
    under no id of their own (`resources.update`)."""
    is_open = visible(reader, resource_type, "u") == TRUE
    return is_open and bool(await resources.lock(conn, [(resource_type, id_)]))


def taken(resource_type: str) -> Conflict:
    """For content without a match whose id is another resource's."""
    return Conflict("the id belongs to a resource that the condition does not match", location=f"{resource_type}.id")
