"""Signed checkpoints, and removal by policy: what an owner of the database without the key cannot hide."""

import asyncio
import base64
import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import patch

import psycopg
import pytest

from wetread.access.audit_keys import AuditKeys
from wetread.domain.reader import SYSTEM
from wetread.errors import InvalidInput
from wetread.record.audit import audit, chain, checkpoints, removal
from wetread.record.audit.audit import AuditEntry
from wetread.record.audit.chain import START, Row
from wetread.record.audit.checkpoints import Checkpoint
from wetread.record.audit.keeper import Keeper
from wetread.record.audit.keys import BadSignature
from wetread.record.audit.proof import Verification, verify
from wetread.store.database import Connection, Database

KEYS = AuditKeys.parse(AuditKeys.made())
OTHERS = AuditKeys.parse(AuditKeys.made())
HOUR = timedelta(hours=1)
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


async def _written(database: Database, count: int, at: datetime | None = None) -> list[str]:
    """Writes and chains; as of long ago where `at` says so."""
    entries = [AuditEntry("read", "R", "0", f"reader-{n}") for n in range(count)]
    async with database.transaction() as conn:
        with patch("wetread.record.audit.audit.datetime") as clock:
            clock.now.return_value = at or datetime.now(UTC)
            ids = await audit.write_many(conn, entries)
    async with database.transaction() as conn:
        await chain.extend(conn)
    return ids


async def _sign(database: Database, records: int = 1, after: timedelta = HOUR) -> Checkpoint | None:
    async with database.transaction() as conn:
        return await checkpoints.sign_due(conn, KEYS, records=records, after=after)


async def _verify(database: Database, *against: Checkpoint, keys: AuditKeys = KEYS) -> Verification:
    async with database.transaction() as conn:
        return await verify(conn, keys, against)


async def _as_owner(conn: Connection, *statements: str) -> None:
    """Past every trigger, as only an owner of the tables can."""
    for table in ("audit_event", "audit_chain", "audit_checkpoint", "audit_removal"):
        await conn.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
    for statement in statements:
        await conn.execute(statement)


async def _tampered(database: Database, *statements: str, against: tuple[Checkpoint, ...] = ()) -> Verification:
    """What verification says after the owner's statements, which are then undone."""
    async with database.pool.connection() as conn, conn.transaction(force_rollback=True):
        await _as_owner(conn, *statements)
        return await verify(conn, KEYS, against)


class TestCheckpoints:
    async def test_one_is_signed_after_so_many_records_or_so_long_where_something_is_new(
        self, database: Database
    ) -> None:
        assert await _sign(database) is None
        await _written(database, 2)
        first = await _sign(database, records=100)
        assert first is not None
        assert (first.seq, first.is_signed(KEYS), first.is_signed(OTHERS)) == (2, True, False)
        assert await _sign(database, after=timedelta(0)) is None
        await _written(database, 2)
        assert await _sign(database, records=3) is None
        second = await _sign(database, records=2)
        assert second is not None
        await _written(database, 1)
        third = await _sign(database, records=100, after=timedelta(0))
        assert third is not None
        assert await _verify(database) == Verification(True, 5, 0, None, signed=3)

    async def test_the_keeper_signs_what_is_due_and_at_its_end_what_is_left(self, database: Database) -> None:
        await _written(database, 3)
        keeper, stop = Keeper(database, KEYS, records=1000, after=HOUR), asyncio.Event()
        running = asyncio.create_task(keeper.run(stop))
        async with asyncio.timeout(10):
            while (await _verify(database)).signed < 1:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        await _written(database, 1)
        stop.set()
        await running
        assert (await _verify(database)).signed == 2

    async def test_what_another_key_signed_or_what_says_something_else_is_named(self, database: Database) -> None:
        await _written(database, 2)
        await _sign(database)
        assert (await _verify(database, keys=OTHERS)).first_bad == "the checkpoint at link 2 is not signed by our key"
        for change in ("seq = 1", "hash = decode('00', 'hex')", "at = at + interval '1 second'", "signed = ''"):
            found = await _tampered(database, f"UPDATE audit_checkpoint SET {change}")
            assert found.first_bad is not None
            assert "is not signed by our key" in found.first_bad, change

    async def test_a_cut_off_end_is_found_by_a_checkpoint_beyond_it(self, database: Database) -> None:
        await _written(database, 2)
        await _sign(database)
        ids = await _written(database, 2)
        kept = await _sign(database)
        assert kept is not None
        cut = (
            f"DELETE FROM audit_event WHERE id IN ('{ids[0]}', '{ids[1]}')",
            "DELETE FROM audit_chain WHERE seq > 2",
        )
        told = "the chain was cut off after link 2: a checkpoint was signed at link 4"
        assert (await _tampered(database, *cut)).first_bad == told
        both = (*cut, "DELETE FROM audit_checkpoint WHERE seq > 2")
        assert (await _tampered(database, *both)).ok
        assert (await _tampered(database, *both, against=(kept,))).first_bad == told

    async def test_a_chain_that_was_computed_anew_is_found(self, database: Database) -> None:
        ids = await _written(database, 3)
        kept = await _sign(database)
        assert kept is not None
        async with database.pool.connection() as conn, conn.transaction(force_rollback=True):
            await _as_owner(conn, f"UPDATE audit_event SET principal = 'somebody' WHERE id = '{ids[1]}'")
            rows = await (
                await conn.execute(
                    f"SELECT {chain.COLUMNS} FROM audit_chain c JOIN audit_event e ON e.id = c.audit_id ORDER BY c.seq"
                )
            ).fetchall()
            digest = START
            for seq, row in enumerate(rows, 1):
                digest = chain.link(digest, Row(*row))
                await conn.execute("UPDATE audit_chain SET hash = %s WHERE seq = %s", (digest, seq))
            told = "the chain was computed anew at or before link 3: its signed checkpoint has another hash"
            assert (await verify(conn, KEYS)).first_bad == told
            await conn.execute("DELETE FROM audit_checkpoint")
            assert (await verify(conn, KEYS)).ok
            assert (await verify(conn, KEYS, [kept])).first_bad == told

    async def test_an_exported_checkpoint_reads_back_and_anything_else_is_refused(self, database: Database) -> None:
        await _written(database, 1)
        made = await _sign(database)
        async with database.transaction() as conn:
            lines = [line async for line in checkpoints.export(conn, SYSTEM)]
        assert checkpoints.parsed(lines) == [made]
        assert (await _verify(database, *checkpoints.parsed(lines))).ok
        for text in (
            "{}",
            "[]",
            "no json",
            '{"seq": 1, "hash": "zz", "at": "2026-01-01T00:00:00+00:00", "signed": ""}',
        ):
            with pytest.raises(InvalidInput):
                checkpoints.parsed([text])

    async def test_none_is_ever_changed_or_taken_away(self, database: Database) -> None:
        await _written(database, 1)
        await _sign(database)
        for statement in ("UPDATE audit_checkpoint SET seq = 9", "DELETE FROM audit_checkpoint"):
            with pytest.raises(psycopg.errors.RestrictViolation):
                async with database.transaction() as conn:
                    await conn.execute(statement)


class TestKeys:
    def test_the_first_signs_and_each_verifies_and_none_is_told(self) -> None:
        old, new = json.loads(AuditKeys.made()), json.loads(AuditKeys.made())
        both = AuditKeys.parse(json.dumps({"keys": [*new["keys"], *old["keys"]]}).encode())
        before = AuditKeys.parse(json.dumps(old).encode()).sign("a", {"x": 1})
        assert both.payload("a", before) == {"x": 1}
        assert AuditKeys.parse(json.dumps(new).encode()).payload("a", both.sign("a", {"x": 2})) == {"x": 2}
        told = both.public()["keys"]
        assert [key["kid"] for key in told] == [key["kid"] for key in (*new["keys"], *old["keys"])]
        assert not any("d" in key for key in told)

    def test_what_is_signed_as_one_thing_is_not_taken_for_another(self) -> None:
        with pytest.raises(BadSignature):
            KEYS.payload("removal", KEYS.sign("checkpoint", {}))

    @pytest.mark.parametrize("alg", ["none", "HS256"])
    def test_no_other_algorithm_is_taken(self, alg: str) -> None:
        header = base64.urlsafe_b64encode(json.dumps({"alg": alg, "typ": "a"}).encode()).rstrip(b"=").decode()
        with pytest.raises(BadSignature):
            KEYS.payload("a", f"{header}.e30.")

    @pytest.mark.parametrize("text", [b"", b"{}", b'{"keys": []}', b'{"keys": [{"kty": "oct", "k": "AAAA"}]}'])
    def test_a_file_of_something_else_is_refused(self, text: bytes) -> None:
        with pytest.raises(ValueError):  # noqa: PT011  (whichever the library raises)
            AuditKeys.parse(text)


class TestRemoval:
    async def test_what_is_older_goes_up_to_a_checkpoint_and_the_rest_still_verifies(
        self, database: Database, tmp_path: Path
    ) -> None:
        old = await _written(database, 3, LONG_AGO)
        await _sign(database)
        await _written(database, 2, LONG_AGO)  # old too, but no checkpoint behind them
        young = await _written(database, 1)
        await _sign(database)
        keeper = Keeper(database, KEYS, 1, HOUR, keep_days=30, archive=tmp_path / "archive")
        assert await keeper.remove() == 3
        assert await keeper.remove() == 0
        async with database.transaction() as conn:
            await chain.extend(conn)
            left = [str(r[0]) for r in await (await conn.execute("SELECT id FROM audit_event")).fetchall()]
            found = await (await conn.execute("SELECT body FROM audit_event WHERE kind = 'audit-removed'")).fetchall()
        assert not set(left) & set(old)
        assert young[0] in left
        assert await _verify(database) == Verification(True, 4, 0, None, signed=2, removed=3)

        [told] = [json.loads(body) for (body,) in found]
        detail = {each["type"]: each["valueString"] for each in told["entity"][-1]["detail"]}
        [file] = (tmp_path / "archive").iterdir()
        assert (detail["first"], detail["through"], detail["count"]) == ("1", "3", "3")
        assert (detail["policy"], detail["by"], detail["archive"]) == ("keep_days=30", "wetread", file.name)
        assert detail["archive-sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
        digest = START
        for number, line in enumerate(file.read_text().splitlines(), 1):
            kept = json.loads(line)
            digest = hashlib.sha256(digest + kept["record"].encode()).digest()
            assert (kept["seq"], kept["hash"]) == (number, digest.hex())
        assert digest.hex() == detail["last-hash"]

    async def test_all_of_it_may_go_and_the_chain_goes_on(self, database: Database) -> None:
        await _written(database, 2, LONG_AGO)
        await _sign(database)
        assert await Keeper(database, KEYS, 1, HOUR, keep_days=1).remove() == 2
        await _written(database, 1, LONG_AGO)
        await _sign(database)
        assert await _verify(database) == Verification(True, 2, 0, None, signed=2, removed=2)

    async def test_what_a_stream_has_not_sent_yet_stays(self, database: Database) -> None:
        await _written(database, 2, LONG_AGO)
        await _sign(database)
        async with database.transaction() as conn:
            await conn.execute("INSERT INTO audit_stream (name, seq) VALUES ('file', 1)")
        assert await Keeper(database, KEYS, 1, HOUR, keep_days=1).remove() == 0
        async with database.transaction() as conn:
            await conn.execute("UPDATE audit_stream SET seq = 2")
        assert await Keeper(database, KEYS, 1, HOUR, keep_days=1).remove() == 2

    async def test_for_ever_is_for_ever(self, database: Database) -> None:
        await _written(database, 1, LONG_AGO)
        await _sign(database)
        assert await Keeper(database, KEYS, 1, HOUR).remove() == 0

    async def test_where_the_archive_cannot_be_written_nothing_goes(self, database: Database, tmp_path: Path) -> None:
        await _written(database, 1, LONG_AGO)
        await _sign(database)
        (tmp_path / "file").touch()
        with pytest.raises(OSError):  # noqa: PT011  (the operating system's)
            await Keeper(database, KEYS, 1, HOUR, keep_days=1, archive=tmp_path / "file").remove()
        assert (await _verify(database)).chained == 1

    async def test_a_removal_that_another_made_is_named(self, database: Database) -> None:
        await _written(database, 2, LONG_AGO)
        await _sign(database)
        forged = (
            "INSERT INTO audit_removal SELECT 2, 1, hash, hash, now(), 'x', gen_random_uuid() "
            "FROM audit_checkpoint WHERE seq = 2",
            "DELETE FROM audit_event",
            "DELETE FROM audit_chain",
        )
        told = "the removal of links 1 to 2 is not signed by our key"
        assert (await _tampered(database, *forged)).first_bad == told

    @pytest.mark.parametrize(
        "statement",
        [
            "DELETE FROM audit_event",
            "DELETE FROM audit_chain",
            "DELETE FROM audit_event WHERE id IN (SELECT audit_id FROM audit_chain WHERE seq = 3)",
            "DELETE FROM audit_chain WHERE seq = 3",
            "UPDATE audit_removal SET through = 3",
            "DELETE FROM audit_removal",
        ],
    )
    async def test_the_database_refuses_any_other_deletion_also_beside_one_by_policy(
        self, database: Database, statement: str
    ) -> None:
        await _written(database, 2, LONG_AGO)
        await _sign(database)
        await _written(database, 1)
        with pytest.raises(psycopg.errors.RestrictViolation):  # noqa: PT012  (one transaction)
            async with database.transaction() as conn:
                await conn.execute(statement)
                assert await removal.remove_due(conn, KEYS, 1, None) == 0
        with pytest.raises(psycopg.errors.RestrictViolation):  # noqa: PT012  (one transaction)
            async with database.transaction() as conn:
                assert await removal.remove_due(conn, KEYS, 1, None) == 2
                await conn.execute(statement)

    async def test_the_database_refuses_a_removal_that_is_not_the_next_or_has_no_checkpoint(
        self, database: Database
    ) -> None:
        await _written(database, 3, LONG_AGO)
        await _sign(database)
        for first, through in ((2, 3), (1, 2), (1, 4)):
            with pytest.raises(psycopg.errors.RestrictViolation):
                async with database.transaction() as conn:
                    await conn.execute(
                        """INSERT INTO audit_removal (through, first, first_hash, last_hash, at, signed, audit_id)
                           SELECT %s, %s, hash, hash, now(), '', gen_random_uuid() FROM audit_checkpoint""",
                        (through, first),
                    )
