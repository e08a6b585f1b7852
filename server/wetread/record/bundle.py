"""Batch and transaction Bundles (FHIR R4 3.1.0.11).

`bundle_entry.read` takes a Bundle apart and validates what it would store, before any transaction; `transact` does
entries on the caller's connection, so that they commit or roll back as one: all of a transaction, one of a batch.

Whoever writes takes its turns in one order: the conditions, sorted; the resources that are there, sorted; then the new
ones, sorted. So two Bundles that touch the same come one after the other; the rare knot that is left is untied by the
database, and the caller does the whole again (`Database.retried`).
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl

from wetread.domain.reader import Reader
from wetread.errors import Contended, InvalidInput, NotFound, PreconditionFailed, WetreadError
from wetread.record import conditional, fhirpath_patch, history, lossless, patch, resources
from wetread.record.bundle_entry import METHODS, Entry
from wetread.record.compartment import patients_named
from wetread.record.cursors import OF_THIS_PROCESS, Cursors
from wetread.record.links import conditional_references, rewritten
from wetread.record.search import search
from wetread.record.splice import instant
from wetread.record.validation import validate
from wetread.record.versions import Accepted, Version
from wetread.store.database import Connection

_LETTERS = {"POST": "c", "PUT": "u", "PATCH": "u", "DELETE": "d"}


@dataclass(frozen=True, slots=True)
class Done:
    """What an entry did. `text` is its entry of the response Bundle; `patient_ids` whom it touched, for the audit.

    `written` is what it wrote: type, id, and the version, None for a deletion.
    """

    entry: Entry
    text: str
    what: str = ""
    patient_ids: tuple[str, ...] = ()
    written: tuple[str, str, Version | None] | None = None


@dataclass(frozen=True, slots=True)
class Manner:
    """How a Bundle is done. `returns` is the preference for what stands in the answer (Prefer: return)."""

    base_url: str
    returns: str = "representation"
    strict: bool = False
    may_create: bool = True
    cursors: Cursors = OF_THIS_PROCESS


@dataclass(frozen=True, slots=True)
class _Step:
    """An entry whose id is settled. `found` is the match of its condition; `is_new` that the id was made up here."""

    entry: Entry
    found: Version | None = None
    is_new: bool = False

    @property
    def identity(self) -> tuple[str, str]:
        return self.entry.resource_type, self.entry.id

    @property
    def changes(self) -> bool:
        """Whether it may change a resource that has this identity."""
        if self.entry.method == "POST":
            return self.found is None
        return self.entry.method != "GET" and bool(self.entry.id)


async def transact(conn: Connection, reader: Reader, entries: Sequence[Entry], manner: Manner) -> list[Done]:
    """Does entries in R4's order (DELETE, POST, PUT and PATCH, GET); the answers stand in the order of `entries`.

    Raises what any entry raises, its location within the Bundle: the caller's transaction then rolls back, and nothing
    was done. Raises Contended where a resource changed while its turn was awaited.
    """
    for entry in entries:
        if entry.method in _LETTERS:
            reader.require_some(_LETTERS[entry.method], entry.resource_type)
    steps = await _settled(conn, reader, entries)
    _require_distinct(steps)
    changed = [step.identity for step in steps if step.changes and not step.is_new]
    versions = await resources.lock(conn, changed)
    for step in steps:
        if step.found is not None and step.changes and versions.get(step.identity) != step.found.version_id:
            raise Contended("others change the same things at this moment; send again")
    targets = _targets(steps)
    done: list[Done] = []
    fresh: list[resources.New] = []
    for step in sorted(steps, key=_turn):
        with _within(step.entry):
            searches = set(conditional_references(step.entry.content))
            if fresh and (searches or not step.is_new):  # it may look at what is new
                await resources.make(conn, fresh)
                fresh = []
            linked = await _linked(conn, reader, step, targets, searches)
            if step.is_new:
                made, answer = _new(conn, linked, manner)
                fresh.append(made)
                done.append(answer)
            else:
                done.append(await _done(conn, reader, linked, manner))
    await resources.make(conn, fresh)
    # Last, since what is written may be open to its writer by way of what was written after it.
    for each in done:
        if each.written is not None and each.written[2] is not None:
            with _within(each.entry):
                await resources.require_within(conn, reader, _LETTERS[each.entry.method], each.written[2])
    return sorted(done, key=lambda d: d.entry.number)


def _turn(step: _Step) -> tuple[int, str, str]:
    """R4's order of methods; within one, new resources in an order that all Bundles share."""
    return METHODS.index("PUT" if step.entry.method == "PATCH" else step.entry.method), *step.identity


@contextlib.contextmanager
def _within(entry: Entry) -> Iterator[None]:
    """Tells of an error where in the Bundle it belongs."""
    try:
        yield
    except validate.InvalidResource as error:
        where = f"Bundle.entry[{entry.number}].resource"
        error.issues = tuple(
            issue
            if issue.expression.startswith(where)
            else replace(issue, expression=where + issue.expression.removeprefix(entry.resource_type))
            for issue in error.issues
        )
        raise
    except WetreadError as error:
        where, inner = f"Bundle.entry[{entry.number}]", error.location or ""
        if not inner.startswith(where):
            inner = inner.removeprefix(entry.resource_type).removeprefix("Parameters")
            error.location = f"{where}.resource{inner}" if inner.startswith(".") else f"{where}.request"
        raise


async def _settled(conn: Connection, reader: Reader, entries: Sequence[Entry]) -> list[_Step]:
    """Every entry with the id under which it writes, so that others can refer to it."""
    steps: dict[int, _Step] = {}
    deleted: set[tuple[str, str]] = set()
    # Two Bundles with the same conditions ask for them in the same order, and so never block each other.
    for entry in sorted((e for e in entries if e.condition), key=_condition_key):
        with _within(entry):
            found = await resources.only_match(conn, reader, entry.resource_type, entry.condition)
            steps[entry.number] = _matched(entry, found)
            if entry.method == "DELETE" and found is not None:
                deleted.add((entry.resource_type, found.id))
    deleted.update((e.resource_type, e.id) for e in entries if e.method == "DELETE" and e.id)
    for entry in entries:
        step = steps.get(entry.number)
        if step is None:
            is_new = entry.method == "POST"
            steps[entry.number] = _Step(replace(entry, id=str(uuid.uuid4())) if is_new else entry, is_new=is_new)
        elif entry.method == "POST" and step.found is not None and step.identity in deleted:
            # Deletions come first, so this match will be gone.
            steps[entry.number] = _matched(entry, None)
    return [steps[entry.number] for entry in entries]


def _condition_key(entry: Entry) -> tuple[str, list[tuple[str, str]]]:
    return entry.resource_type, resources.conditions(entry.resource_type, entry.condition)


def _matched(entry: Entry, found: Version | None) -> _Step:
    match entry.method:
        case "POST":
            return _Step(replace(entry, id=found.id if found else str(uuid.uuid4())), found, is_new=found is None)
        case "PUT":
            assert entry.content is not None  # noqa: S101
            id_, is_new = conditional.identity(entry.content, found)
            return _Step(replace(entry, id=id_), found, is_new)
    if found is None and entry.method == "PATCH":
        raise NotFound(f"no {entry.resource_type} matches the condition")
    return _Step(replace(entry, id=found.id if found else ""), found)


def _require_distinct(steps: Sequence[_Step]) -> None:
    """R4: a transaction in which two entries have the same identity fails."""
    seen: set[object] = set()
    for step in steps:
        keys: list[object] = [step.identity] if step.changes else []
        if step.is_new and step.entry.condition:  # the second of its like would match what the first makes
            resource_type, condition = _condition_key(step.entry)
            keys.append((resource_type, *condition))
        if seen.intersection(keys):
            where = f"Bundle.entry[{step.entry.number}].request"
            raise InvalidInput("two entries of one transaction change the same resource", location=where)
        seen.update(keys)


def _targets(steps: Sequence[_Step]) -> dict[str, str]:
    """What a link may say, and the `Type/id` that it means (R4 bundle.html 2.36.4.1). Raises InvalidInput where it may
    mean two."""
    targets: dict[str, str] = {}
    named: set[str] = set()
    for step in steps:
        entry = step.entry
        if entry.content is None:
            continue
        real = f"{entry.resource_type}/{entry.id}"
        if entry.full_url in named:
            where = f"Bundle.entry[{entry.number}].fullUrl"
            raise InvalidInput(
                "bdl-7: two entries have the same fullUrl; which of them is meant by it?", location=where
            )
        if entry.full_url:
            named.add(entry.full_url)
            targets[entry.full_url] = real
        if entry.full_url.startswith(("http:", "https:")):
            # Its sisters may name it relative to the server that it came from.
            *_, type_, id_ = ("", *entry.full_url.rsplit("/", 2))
            targets.setdefault(f"{type_}/{id_}", real)
    return {text: real for text, real in targets.items() if text != real}


async def _linked(
    conn: Connection, reader: Reader, step: _Step, targets: Mapping[str, str], searches: Iterable[tuple[str, str, str]]
) -> _Step:
    """The step with links to other entries, and references by search, made real (R4 3.1.0.11.2)."""
    if step.entry.content is None:
        return step
    found = dict(targets)
    for text, resource_type, condition in searches:
        match = await resources.match(conn, reader, resource_type, condition)
        if match is None:
            raise PreconditionFailed("a reference by search matches no resource")
        found[text] = f"{match.resource_type}/{match.id}"
    return replace(step, entry=replace(step.entry, content=rewritten(step.entry.content, found)))


async def _done(conn: Connection, reader: Reader, step: _Step, manner: Manner) -> Done:
    entry = step.entry
    match entry.method:
        case "POST" if step.found is not None:
            return _answer(conn, entry, step.found, 200, manner)
        case "POST" | "PUT":
            return await _write(conn, reader, step, manner)
        case "PATCH":
            return await _patch(conn, reader, entry, manner)
        case "DELETE":
            return await _delete(conn, reader, entry, manner)
    return await _get(conn, reader, entry, manner)


def _new(conn: Connection, step: _Step, manner: Manner) -> tuple[resources.New, Done]:
    """What is to be created, and the answer once it is."""
    content = {**(step.entry.content or {}), "id": step.entry.id}
    resources.require_version(None, step.entry.if_match)
    made = resources.new(Accepted(lossless.dump(content), content), step.entry.id, conn.bases)
    return made, _answer(conn, step.entry, made.version, 201, manner, wrote=content)


async def _write(conn: Connection, reader: Reader, step: _Step, manner: Manner) -> Done:
    entry = step.entry
    content = {**(entry.content or {}), "id": entry.id}
    by_condition = entry.method == "PUT" and bool(entry.condition)
    may_be_taken = by_condition and step.found is None
    if may_be_taken and await conditional.is_taken(conn, reader, *step.identity):
        raise conditional.taken(entry.resource_type)
    accepted = Accepted(lossless.dump(content), content)
    version, created = await resources.update(
        conn,
        reader,
        accepted,
        if_match=entry.if_match,
        only_new=entry.method == "PUT" and entry.if_none_match == "*",
        may_create=manner.may_create,
        is_judged=False,
    )
    return _answer(conn, entry, version, 201 if created else 200, manner, wrote=content)


async def _patch(conn: Connection, reader: Reader, entry: Entry, manner: Manner) -> Done:
    if entry.content is not None:
        change = fhirpath_patch.change(fhirpath_patch.parsed(entry.content))
    else:
        change = patch.change(entry.operations)
    version = await resources.patch(
        conn, reader, entry.resource_type, entry.id, change, if_match=entry.if_match, is_judged=False
    )
    return _answer(conn, entry, version, 200, manner, wrote=version.resource())


async def _delete(conn: Connection, reader: Reader, entry: Entry, manner: Manner) -> Done:
    before = await resources.current(conn, reader, "d", entry.resource_type, entry.id) if entry.id else None
    after = None
    if not entry.id:
        resources.require_version(None, entry.if_match)
    else:
        after = await resources.delete(conn, reader, entry.resource_type, entry.id, if_match=entry.if_match)
    response = {"status": "204 No Content", **({"etag": f'W/"{after.version_id}"'} if after else {})}
    written = (entry.resource_type, entry.id, None) if before is not None and not before.deleted else None
    return Done(entry, lossless.dump({"response": response}), entry.what, _patients(conn, before), written)


async def _get(conn: Connection, reader: Reader, entry: Entry, manner: Manner) -> Done:
    params = parse_qsl(entry.query, keep_blank_values=True)
    type_, id_, base = entry.resource_type, entry.id, manner.base_url
    found: search.SearchSet | history.History
    match entry.interaction:
        case "read":
            return _answer(conn, entry, await resources.read(conn, reader, type_, id_), 200, manner)
        case "vread":
            return _answer(
                conn, entry, await resources.vread(conn, reader, type_, id_, int(entry.version)), 200, manner
            )
        case "history-instance":
            found = await history.of_resource(conn, reader, type_, id_, params, base, cursors=manner.cursors)
        case "history-type":
            found = await history.of_type(conn, reader, type_, params, base, cursors=manner.cursors)
        case "history-system":
            found = await history.of_system(conn, reader, params, base, cursors=manner.cursors)
        case _:
            asked = search.SearchRequest(
                type_, params, base, compartment=entry.compartment, strict=manner.strict, cursors=manner.cursors
            )
            found = await search.search(conn, reader, asked)
    return Done(entry, f'{{"resource":{found.body},"response":{{"status":"200 OK"}}}}', "", found.patient_ids)


_REASONS = {200: "200 OK", 201: "201 Created", 304: "304 Not Modified"}


def _answer(
    conn: Connection,
    entry: Entry,
    version: Version,
    status: int,
    manner: Manner,
    *,
    wrote: dict[str, Any] | None = None,
) -> Done:
    """`wrote` is the version's content, where the entry wrote it."""
    what = f"{version.resource_type}/{version.id}"
    status = (
        304 if entry.method == "GET" and is_known(version, entry.if_none_match, entry.if_modified_since) else status
    )
    returns = manner.returns if entry.method != "GET" else "representation"
    response = {
        "status": _REASONS[status],
        "location": f"{manner.base_url}/{what}/_history/{version.version_id}",
        "etag": f'W/"{version.version_id}"',
        "lastModified": instant(version.last_updated),
        **({"outcome": _success(status)} if returns == "OperationOutcome" else {}),
    }
    body = f'"resource":{version.body},' if returns == "representation" and status != 304 else ""
    text = f'{{"fullUrl":"{manner.base_url}/{what}",{body}{lossless.dump({"response": response})[1:]}'
    written = (version.resource_type, version.id, version) if wrote is not None else None
    about = what if wrote is None else f"{what}/_history/{version.version_id}"
    return Done(entry, text, about, _patients(conn, version, wrote), written)


def is_known(version: Version, none_match: str | None, since: datetime | None) -> bool:
    """Whether the caller has this version already (3.1.0.5.1): the tag decides where there is one, else the time."""
    if none_match is not None:
        return none_match.strip() == "*" or f'"{version.version_id}"' in none_match
    return since is not None and version.last_updated.replace(microsecond=0) <= since


def _success(status: int) -> dict[str, Any]:
    text = "created" if status == 201 else "done"
    issue = {"severity": "information", "code": "informational", "diagnostics": text}
    return {"resourceType": "OperationOutcome", "issue": [issue]}


def _patients(conn: Connection, version: Version | None, content: dict[str, Any] | None = None) -> tuple[str, ...]:
    if version is None or version.deleted:
        return ()
    return patients_named(content if content is not None else version.resource(), conn.bases)


def response(done: Sequence[str], *, is_transaction: bool) -> str:
    """The response Bundle of entry texts."""
    kind = "transaction-response" if is_transaction else "batch-response"
    head = lossless.dump({"resourceType": "Bundle", "id": str(uuid.uuid4()), "type": kind})
    return f'{head[:-1]},"entry":[{",".join(done)}]}}' if done else head
