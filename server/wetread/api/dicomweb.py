"""DICOMweb (PS3.18): STOW-RS stores, QIDO-RS finds, WADO-RS gives back. Mounted at `/dicom-web`.

An instance is given back in the transfer syntax that it was received in; nothing is transcoded. Reading needs `r` on
ImagingStudy, storing `c` on all of the type; a token for a part of it (a patient's) needs `s` to find, and is shown the
studies whose ImagingStudy it opens. Blobs are read and headers parsed in threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from wetread.api.audited import access
from wetread.api.credentials import Authenticate
from wetread.api.dicomweb_audit import failure, successes
from wetread.api.dicomweb_json import answer, attributes, metadata, stow_response
from wetread.archive import instances, quarantine
from wetread.archive.query import KEYS, Blob, Level, Match, blobs_of, find
from wetread.domain.reader import Reader
from wetread.domain.study import InstanceFacts
from wetread.errors import (
    InvalidInput,
    NotAcceptable,
    NotFound,
    TooLarge,
    Unreachable,
    UnsupportedMedia,
    WetreadError,
)
from wetread.reading.images import open_to
from wetread.record.audit import audit
from wetread.store.blobs import LocalBlobs
from wetread.store.database import Connection, Database
from wetread.wire.dicom import facts, read_header
from wetread.wire.dicom_frames import frames
from wetread.wire.multipart import Parts, media_type

DICOM, DICOM_JSON, OCTETS = "application/dicom", "application/dicom+json", "application/octet-stream"
_MOST_RESULTS = 1000
_OWN_PARAMETERS = frozenset({"limit", "offset", "includefield", "fuzzymatching"})


class _WrongStudy(InvalidInput):
    """The instance is of another study than the one it was posted to (PS3.18 10.5.1)."""

    dimse_status = 0xA900


@dataclass(frozen=True)
class _Failure:
    error: WetreadError
    facts: InstanceFacts | None


def router(
    database: Database, blobs: LocalBlobs, authenticate: Authenticate, *, limit_bytes: int = 1024 * 1024 * 1024
) -> APIRouter:
    """`limit_bytes` is the largest instance that STOW-RS takes. Errors leave as WetreadError, for the app to render."""
    routes = APIRouter(prefix="/dicom-web", tags=["dicomweb"])

    @contextlib.asynccontextmanager
    async def reading(request: Request, kind: str) -> AsyncIterator[tuple[Connection, Reader, set[str]]]:
        """Who asks, a transaction for it, and a set to fill with the studies that they are told of: it is on record
        before anything is given, as is that they were refused."""
        reader: Reader | None = None
        try:
            reader = await authenticate(request)
            reader.require_some("r", "ImagingStudy")
            async with database.transaction() as conn:
                told: set[str] = set()
                yield conn, reader, told
                await audit.write_many(conn, await successes(conn, request, reader, kind, "R", told))
        except WetreadError as error:
            if not isinstance(error, Unreachable):
                async with database.transaction() as conn:
                    await audit.write(conn, failure(request, reader, kind, "R", error))
            raise

    # STOW-RS, PS3.18 10.5

    @routes.post("/studies")
    @routes.post("/studies/{study}")
    async def store(request: Request, study: str | None = None) -> Response:
        reader = await authenticate(request)
        reader.require("c", "ImagingStudy")
        studies: set[str] = set()
        stored: list[InstanceFacts] = []
        failed: list[_Failure] = []
        async for body in _posted(request, limit_bytes):
            outcome = await store_one(request, reader, body, study, studies)
            if isinstance(outcome, _Failure):
                failed.append(outcome)
            else:
                stored.append(outcome)
        if not stored and not failed:
            raise InvalidInput("the request holds no instance")
        root = _root(request)
        document = stow_response(
            root,
            [_reference(one, root) for one in stored],
            [_failed_reference(one) for one in failed],
            studies.pop() if len(studies) == 1 else None,
        )
        return _json(document, _stow_status(stored, failed))

    async def store_one(
        request: Request, reader: Reader, body: bytes, study: str | None, studies: set[str]
    ) -> InstanceFacts | _Failure:
        """Stores and audits in one transaction; of a study in `studies` it is on record already."""
        source = f"stow:{reader.principal}"
        found: InstanceFacts | None = None
        try:
            found = facts(body)
            if study is not None and found.study_instance_uid != study:
                raise _WrongStudy("the instance is of another study than the URL names", location="StudyInstanceUID")
            async with database.transaction() as conn:
                await instances.store_async(conn, blobs, found, body, source=source)
                if found.study_instance_uid not in studies:
                    uids = (found.study_instance_uid,)
                    await audit.write_many(conn, await successes(conn, request, reader, "instance-stored", "C", uids))
        except WetreadError as error:
            if not isinstance(error, Unreachable):
                uid = found.sop_instance_uid if found else ""
                async with database.transaction() as conn:
                    await quarantine.refuse_async(conn, blobs, body, error, source=source, sop_instance_uid=uid)
                    entry = access(request, reader, "instance-refused", "C", outcome="4", detail={"reason": error.code})
                    await audit.write(conn, entry)
            return _Failure(error, found)
        studies.add(found.study_instance_uid)
        return found

    # QIDO-RS, PS3.18 10.6

    async def search(request: Request, level: Level, **path: str) -> Response:
        async with reading(request, "instance-queried") as (conn, reader, told):
            part = await open_to(conn, reader, "r" if reader.may("r", "ImagingStudy") else "rs")
            matches, warnings = _matches(request, path)
            limit, offset = _paging(request)
            found = await find(conn, reader, level, matches, limit=limit, offset=offset, part=part)
            told.update(one.facts.study_instance_uid for one in found)
        root = _root(request)
        headers = {"Warning": f'299 wetread "{"; ".join(warnings)}"'} if warnings else {}
        return _json([answer(one, level, root) for one in found], 200, headers)

    @routes.get("/studies")
    async def studies(request: Request) -> Response:
        return await search(request, "study")

    @routes.get("/series")
    async def series(request: Request) -> Response:
        return await search(request, "series")

    @routes.get("/instances")
    async def all_instances(request: Request) -> Response:
        return await search(request, "instance")

    @routes.get("/studies/{study}/series")
    async def series_of(request: Request, study: str) -> Response:
        return await search(request, "series", StudyInstanceUID=study)

    @routes.get("/studies/{study}/instances")
    async def instances_of_study(request: Request, study: str) -> Response:
        return await search(request, "instance", StudyInstanceUID=study)

    @routes.get("/studies/{study}/series/{series}/instances")
    async def instances_of_series(request: Request, study: str, series: str) -> Response:
        return await search(request, "instance", StudyInstanceUID=study, SeriesInstanceUID=series)

    # WADO-RS, PS3.18 10.4

    async def wanted(request: Request, *uids: str) -> tuple[Blob, ...]:
        async with reading(request, "instance-accessed") as (conn, reader, told):
            found = await blobs_of(conn, reader, *uids, part=await open_to(conn, reader, "r"))
            if not found:
                raise NotFound("no such study, series or instance here")
            told.add(uids[0])
        return found

    @routes.get("/studies/{study}/metadata")
    @routes.get("/studies/{study}/series/{series}/metadata")
    @routes.get("/studies/{study}/series/{series}/instances/{instance}/metadata")
    async def metadata_of(
        request: Request, study: str, series: str | None = None, instance: str | None = None
    ) -> Response:
        _acceptable(request, (DICOM_JSON, "application/json"))
        found = await wanted(request, *(uid for uid in (study, series, instance) if uid))
        return _json(await asyncio.to_thread(_metadata, blobs, found, _root(request)), 200)

    @routes.get("/studies/{study}")
    @routes.get("/studies/{study}/series/{series}")
    @routes.get("/studies/{study}/series/{series}/instances/{instance}")
    async def retrieve(
        request: Request, study: str, series: str | None = None, instance: str | None = None
    ) -> Response:
        accepted = _acceptable(request, (DICOM,), single=instance is not None)
        found = await wanted(request, *(uid for uid in (study, series, instance) if uid))
        if accepted == DICOM:
            body = await asyncio.to_thread(blobs.get, found[0].key)
            return Response(body, media_type=DICOM, headers={"ETag": f'"{found[0].key.rpartition("/")[2]}"'})

        async def parts() -> AsyncIterator[tuple[str, bytes]]:
            for blob in found:
                yield (
                    f"{DICOM}; transfer-syntax={blob.transfer_syntax_uid}",
                    await asyncio.to_thread(blobs.get, blob.key),
                )

        return _multipart(parts(), DICOM)

    @routes.get("/studies/{study}/series/{series}/instances/{instance}/frames/{numbers}")
    async def frames_of(request: Request, study: str, series: str, instance: str, numbers: str) -> Response:
        chosen = _frame_numbers(numbers)
        (found,) = await wanted(request, study, series, instance)
        cut = await asyncio.to_thread(lambda: frames(blobs.get(found.key), chosen))
        _acceptable(request, (OCTETS, cut.media_type))

        async def parts() -> AsyncIterator[tuple[str, bytes]]:
            for frame in cut.frames:
                yield f"{cut.media_type}; transfer-syntax={cut.transfer_syntax_uid}", frame

        return _multipart(parts(), cut.media_type)

    return routes


async def _posted(request: Request, limit_bytes: int) -> AsyncIterator[bytes]:
    """The instances in a STOW-RS request, one after another as they arrive."""
    kind, parameters = media_type(request.headers.get("content-type", ""))
    if kind == DICOM:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit_bytes:
                raise TooLarge(f"one instance holds at most {limit_bytes} bytes")
        yield bytes(body)
        return
    if kind != "multipart/related" or parameters.get("type", DICOM).lower() != DICOM:
        raise UnsupportedMedia(f'send {DICOM}, or multipart/related; type="{DICOM}"', location="Content-Type")
    parts = Parts(parameters.get("boundary", ""), limit_bytes)
    async for chunk in request.stream():
        for part in parts.feed(chunk):
            if media_type(part.headers.get("content-type", DICOM))[0] not in (DICOM, ""):
                raise UnsupportedMedia(f"each part is to be {DICOM}", location="Content-Type")
            yield part.body
    parts.close()


def _reference(stored: InstanceFacts, root: str) -> dict[str, Any]:
    url = f"{root}/studies/{stored.study_instance_uid}/series/{stored.series_instance_uid}"
    return attributes(
        {
            "ReferencedSOPClassUID": stored.sop_class_uid,
            "ReferencedSOPInstanceUID": stored.sop_instance_uid,
            "RetrieveURL": f"{url}/instances/{stored.sop_instance_uid}",
        }
    )


def _failed_reference(failure: _Failure) -> dict[str, Any]:
    return attributes(
        {
            "ReferencedSOPClassUID": failure.facts.sop_class_uid if failure.facts else "",
            "ReferencedSOPInstanceUID": failure.facts.sop_instance_uid if failure.facts else "",
            "FailureReason": failure.error.dimse_status,
        }
    )


def _stow_status(stored: Sequence[InstanceFacts], failed: Sequence[_Failure]) -> int:
    """PS3.18 table 10.5.3-1."""
    if stored:
        return 202 if failed else 200
    if all(isinstance(one.error, Unreachable) for one in failed):
        return failed[0].error.http_status
    if all(one.error.http_status == 400 and one.facts is None for one in failed):
        return 400
    return 409


def _matches(request: Request, path: dict[str, str]) -> tuple[list[Match], list[str]]:
    """Matching keys by keyword or tag; what the index cannot match is ignored with a warning (PS3.18 8.3.4)."""
    matches, warnings = [Match(keyword, value) for keyword, value in path.items()], []
    for name, value in request.query_params.multi_items():
        if name in _OWN_PARAMETERS:
            continue
        keyword = _KEYWORD_OF_TAG.get(name.upper(), name)
        if keyword in KEYS:
            matches.append(Match(keyword, value))
        else:
            # The name is the client's: only what looks like an attribute is repeated.
            warnings.append(f"{name if name.isalnum() and name.isascii() else 'a parameter'} is not matched")
    if request.query_params.get("fuzzymatching", "false").lower() == "true":
        warnings.append("fuzzymatching is not supported, only literal matching has been performed")
    return matches, warnings


def _paging(request: Request) -> tuple[int, int]:
    try:
        limit = int(request.query_params.get("limit", _MOST_RESULTS))
        offset = int(request.query_params.get("offset", 0))
    except ValueError as error:
        raise InvalidInput("limit and offset are numbers") from error
    if limit < 0 or offset < 0:
        raise InvalidInput("limit and offset are not negative")
    return min(limit, _MOST_RESULTS), offset


def _acceptable(request: Request, kinds: tuple[str, ...], *, single: bool = True) -> str:
    """The first media type of Accept that can be given: one of `kinds`, or `multipart/related` of one.

    Raises NotAcceptable. Everything is acceptable to who sends no Accept; a transfer syntax is not chosen by.
    """
    multipart = "multipart/related"
    for entry in request.headers.get("accept", "*/*").split(","):
        kind, parameters = media_type(entry)
        if kind == multipart and parameters.get("type", kinds[0]).lower() in (*kinds, "*/*"):
            return multipart
        if kind in ("*/*", "multipart/*", "application/*", "image/*"):
            return multipart
        if kind in kinds and single:
            return kind
    raise NotAcceptable(f"can be given: {', '.join(kinds)}, or multipart/related of them", location="Accept")


def _frame_numbers(numbers: str) -> list[int]:
    try:
        chosen = [int(number) for number in numbers.split(",")]
    except ValueError as error:
        raise InvalidInput("frames are numbers, separated by commas") from error
    if any(number < 1 for number in chosen):
        raise InvalidInput("frames are counted from 1")
    return chosen


def _metadata(blobs: LocalBlobs, found: Sequence[Blob], root: str) -> list[dict[str, Any]]:
    documents = []
    for blob in found:
        header = read_header(blobs.path(blob.key))
        url = f"{root}/studies/{header.StudyInstanceUID}/series/{header.SeriesInstanceUID}"
        documents.append(metadata(header, f"{url}/instances/{blob.sop_instance_uid}"))
    return documents


def _multipart(parts: AsyncIterator[tuple[str, bytes]], kind: str) -> StreamingResponse:
    """A boundary of its own for each answer: a fixed one could turn up in pixel data that were once sent here."""
    boundary = secrets.token_hex(16)

    async def body() -> AsyncIterator[bytes]:
        async for content_type, data in parts:
            yield f"--{boundary}\r\nContent-Type: {content_type}\r\n\r\n".encode()
            yield data
            yield b"\r\n"
        yield f"--{boundary}--\r\n".encode()

    return StreamingResponse(body(), media_type=f'multipart/related; type="{kind}"; boundary={boundary}')


def _json(document: object, status: int, headers: dict[str, str] | None = None) -> Response:
    body = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    return Response(body, status, headers, media_type=DICOM_JSON)


def _root(request: Request) -> str:
    return f"{str(request.base_url).rstrip('/')}/dicom-web"


_KEYWORD_OF_TAG = {tag: keyword for keyword in KEYS for tag in [next(iter(attributes({keyword: ""})))]}
