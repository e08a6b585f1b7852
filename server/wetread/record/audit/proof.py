"""Verification of the whole audit record: its chain, the signatures on it, and what was removed by policy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from wetread.record.audit import checkpoints, removal
from wetread.record.audit.chain import COLUMNS, START, Row, link
from wetread.record.audit.checkpoints import Checkpoint
from wetread.record.audit.keys import Keys
from wetread.record.audit.removal import Removal
from wetread.store.database import Connection


@dataclass(frozen=True, slots=True)
class Verification:
    """`first_bad` names the first altered, missing or reordered record, or signature that does not hold; None where
    all holds. `chained` counts the links that hold, `unchained` the records that the sequencer has not yet reached,
    `signed` the checkpoints that hold, `removed` the links that went by policy."""

    ok: bool
    chained: int
    unchained: int
    first_bad: str | None
    signed: int = 0
    removed: int = 0


async def verify(conn: Connection, keys: Keys, against: Sequence[Checkpoint] = ()) -> Verification:
    """Walks the whole chain with its checkpoints, and with those that were kept elsewhere (`against`).

    Without the latter it proves alteration, loss and reordering up to the chain's last link: who owns the database may
    still have cut off its end together with records and checkpoints. It wants one snapshot: a transaction that is
    REPEATABLE READ, where records are written meanwhile.
    """
    unchained = await _unchained(conn)
    removals = await removal.every(conn)
    start, digest, wrong = _beginning(removals, keys)
    marks = {checkpoint.seq: checkpoint for checkpoint in await checkpoints.every(conn)}
    wrong = wrong or _unsigned((*marks.values(), *against), keys)
    kept: dict[int, set[bytes]] = {}
    for checkpoint in (*marks.values(), *against):
        kept.setdefault(checkpoint.seq, set()).add(checkpoint.hash)
    wrong = wrong or next((told for one in removals if (told := _unmarked(one, kept))), None)
    expected, chained, signed = start + 1, 0, 0
    if wrong is None:
        async with conn.cursor(name="audit_verify") as walk:
            await walk.execute(
                f"""SELECT c.seq, c.audit_id, c.hash, {COLUMNS}
                    FROM audit_chain c LEFT JOIN audit_event e ON e.id = c.audit_id ORDER BY c.seq"""
            )
            async for seq, audit_id, recorded_hash, *content in walk:
                if seq != expected:
                    wrong = f"link {expected} of the chain is missing"
                elif content[0] is None:
                    wrong = f"audit record {audit_id} (link {seq}) is missing"
                elif (digest := link(digest, Row(*content))) != recorded_hash:
                    wrong = f"audit record {audit_id} (link {seq}) was altered, replaced or moved"
                elif kept.get(seq, {digest}) != {digest}:
                    wrong = (
                        f"the chain was computed anew at or before link {seq}: its signed checkpoint has another hash"
                    )
                if wrong:
                    break
                expected, chained, signed = seq + 1, chained + 1, signed + (seq in marks)
    signed += sum(seq <= start for seq in marks)
    wrong = wrong or _cut_off(kept, expected - 1)
    return Verification(wrong is None, chained, unchained, wrong, signed, start)


async def _unchained(conn: Connection) -> int:
    counted = await conn.execute(
        "SELECT count(*) FROM audit_event e WHERE NOT EXISTS (SELECT FROM audit_chain c WHERE c.audit_id = e.id)"
    )
    row = await counted.fetchone()
    return int(row[0]) if row else 0


def _beginning(removals: Sequence[Removal], keys: Keys) -> tuple[int, bytes, str | None]:
    """After which link the chain begins, with which hash, and what is wrong with the proof of that."""
    start, digest = 0, START
    for one in removals:
        if one.first != start + 1:
            return start, digest, f"links {start + 1} to {one.first - 1} of the chain were removed without proof"
        if not one.is_signed(keys):
            return start, digest, f"the removal of links {one.first} to {one.through} is not signed by our key"
        start, digest = one.through, one.last_hash
    return start, digest, None


def _unmarked(one: Removal, kept: Mapping[int, set[bytes]]) -> str | None:
    if kept.get(one.through) != {one.last_hash}:
        return f"the removal of links {one.first} to {one.through} does not end at a signed checkpoint"
    return None


def _unsigned(every: Iterable[Checkpoint], keys: Keys) -> str | None:
    for checkpoint in every:
        if not checkpoint.is_signed(keys):
            return f"the checkpoint at link {checkpoint.seq} is not signed by our key"
    return None


def _cut_off(kept: Mapping[int, set[bytes]], last: int) -> str | None:
    beyond = [seq for seq in kept if seq > last]
    if not beyond:
        return None
    return f"the chain was cut off after link {last}: a checkpoint was signed at link {max(beyond)}"
