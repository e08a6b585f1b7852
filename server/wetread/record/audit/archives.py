"""Verification of archives: what was removed by policy, against the signed proof of it that stayed in the database."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wetread.errors import InvalidInput
from wetread.record.audit import removal
from wetread.record.audit.chain import START
from wetread.record.audit.keys import Keys
from wetread.record.audit.removal import Removal
from wetread.store.database import Connection


@dataclass(frozen=True, slots=True)
class Archived:
    """A file, the `links` of it that hold, and its first fault; None where all holds."""

    name: str
    links: int
    fault: str | None


async def verify(conn: Connection, keys: Keys, files: Sequence[Path]) -> list[Archived]:
    """Each file by itself: that its records make up the chain from the removal before it to its own end, as the signed
    removal says. What follows on the last removal, `proof.verify` goes on with. Raises InvalidInput for a file that
    cannot be read or is no archive."""
    removals = await removal.every(conn)
    return [_verified(file, removals, keys) for file in files]


def _verified(file: Path, removals: Sequence[Removal], keys: Keys) -> Archived:
    first = _first(file)
    own = next((one for one in removals if one.first == first), None)
    if own is None:
        return Archived(file.name, 0, f"no removal that begins at link {first} is on record here")
    before = next((one for one in removals if one.through == first - 1), None)
    if before is None and first != 1:
        return Archived(file.name, 0, f"the removal of the links before link {first} is not on record here")
    for one in (before, own):
        if one is not None and not one.is_signed(keys):
            return Archived(file.name, 0, f"the removal of links {one.first} to {one.through} is not signed by our key")
    return _walked(file, own, before.last_hash if before else START, keys)


def _walked(file: Path, own: Removal, digest: bytes, keys: Keys) -> Archived:
    expected, whole = own.first, hashlib.sha256()
    with file.open("rb") as lines:
        for line in lines:
            whole.update(line)
            seq, told, record = _line(file, line)
            digest = hashlib.sha256(digest + record).digest()
            if seq != expected:
                return Archived(file.name, expected - own.first, f"link {expected} of the chain is missing")
            if digest != told:
                fault = f"the record at link {seq} was altered, replaced or moved"
                return Archived(file.name, expected - own.first, fault)
            if seq == own.first and digest != own.first_hash:
                return Archived(file.name, 0, f"link {seq} is not the one that was removed")
            expected += 1
    links = expected - own.first
    if expected - 1 != own.through:
        end = "ends" if expected <= own.through else "goes on"
        return Archived(
            file.name, links, f"the archive {end} at link {expected - 1}; links to {own.through} were removed"
        )
    if digest != own.last_hash:
        return Archived(file.name, links, f"link {own.through} is not the one that was removed")
    said = keys.payload(removal.KIND, own.signed).get("archive-sha256", "")
    if said != whole.hexdigest():
        return Archived(file.name, links, "the file is not the one that was signed: its SHA-256 differs")
    return Archived(file.name, links, None)


def _first(file: Path) -> int:
    try:
        with file.open("rb") as lines:
            return _line(file, lines.readline())[0]
    except OSError as error:
        raise InvalidInput(f"{file} cannot be read") from error


def _line(file: Path, line: bytes) -> tuple[int, bytes, bytes]:
    """Number, hash and content of a link."""
    try:
        said = json.loads(line)
        return int(said["seq"]), bytes.fromhex(said["hash"]), said["record"].encode()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInput(f"{file} is no archive of audit records, or was cut off within a line") from error
