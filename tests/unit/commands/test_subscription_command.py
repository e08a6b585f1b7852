"""`wetread subscription`, beside a running server."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.subscribers import SECRET, Subscriber, subscribed
from typer.testing import CliRunner, Result

from wetread.commands.tree import cli
from wetread.errors import InvalidInput, NotFound
from wetread.store.database import Database

SLOW = Subscriber("slow", numbered=9, delivered=4, age_s=7200)
BROKEN = Subscriber("broken", "error", numbered=5, delivered=2, failures=12, error="the endpoint answered 410")


@pytest.fixture
def config(database: Database, tmp_path: Path) -> Path:
    (tmp_path / "wetread.toml").write_text(f'database_url = "{database.url}"\n', encoding="utf-8")
    return tmp_path


async def wetread(config: Path, *arguments: str) -> Result:
    command = ["subscription", *arguments, "--config", str(config / "wetread.toml"), "--data-dir", str(config / "data")]
    return await asyncio.to_thread(CliRunner().invoke, cli, command)


async def test_the_list_puts_the_worst_first_and_can_be_of_one_state(config: Path, database: Database) -> None:
    await subscribed(database, SLOW)
    await subscribed(database, BROKEN)
    _, broken, slow = (await wetread(config, "list")).stdout.splitlines()
    assert broken.split()[:2] == ["broken", "error"]
    assert broken.endswith("the endpoint answered 410")
    assert slow.split()[:8] == ["slow", "active", "ai-observation", "rest-hook", "ehr.example:8443", "ehr", "4", "9"]
    assert abs(int(slow.split()[8]) - 7200) < 60
    only = (await wetread(config, "list", "--state", "active")).stdout.splitlines()
    assert [line.split()[0] for line in only[1:]] == ["slow"]


async def test_a_state_that_there_is_not_is_told(config: Path) -> None:
    assert isinstance((await wetread(config, "list", "--state", "asleep")).exception, InvalidInput)


async def test_one_is_shown_with_its_events_and_no_secret(config: Path, database: Database) -> None:
    await subscribed(database, BROKEN)
    told = (await wetread(config, "show", "broken")).stdout
    assert "last error:     the endpoint answered 410" in told
    assert "events:         5 numbered, 2 delivered, 3 waiting" in told
    assert [line.split()[0] for line in told.splitlines()[-5:]] == ["5", "4", "3", "2", "1"]
    assert SECRET not in told
    assert "key=secret" not in told
    assert isinstance((await wetread(config, "show", "none")).exception, NotFound)


async def test_one_is_switched_off_and_asked_for_again_on_record(config: Path, database: Database) -> None:
    await subscribed(database, SLOW)
    assert (await wetread(config, "off", "slow")).stdout == "slow is off\n"
    assert (await wetread(config, "restart", "slow")).exit_code == 0
    async with database.transaction() as conn:
        row = await conn.execute("SELECT status, start, owner ->> 'principal' FROM subscription_state")
        assert await row.fetchone() == ("requested", 2, "ehr")
        audited = await conn.execute("SELECT principal FROM audit_event WHERE kind = 'subscription-changed'")
        assert [name.partition(":")[0] for (name,) in await audited.fetchall()] == ["operator", "operator"]
