"""Whom the listeners do not let in is on the audit record when the server stops, by count."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path

import pytest
from pydicom.uid import UID
from pynetdicom import AE

from tests.certificates import Authority
from tests.ports import free_port
from wetread.roles import run_roles
from wetread.settings import load
from wetread.store.database import Database

VERIFICATION = UID("1.2.840.10008.1.1")


async def connected(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """As soon as the listener is there."""
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                return await asyncio.open_connection("127.0.0.1", port)
            await asyncio.sleep(0.05)


async def knock(port: int, said: bytes = b"") -> None:
    """Until the listener hangs up."""
    reader, writer = await connected(port)
    async with asyncio.timeout(30):
        with contextlib.suppress(ConnectionError):
            writer.write(said)
            await reader.read()
        writer.close()


def associate(port: int) -> None:
    caller = AE("STRANGER")
    caller.add_requested_context(VERIFICATION)
    assert caller.associate("127.0.0.1", port).is_rejected


async def refusals(database: Database) -> dict[str, tuple[str, int]]:
    """By listener: why, and how often; in two rows, where a minute ended between."""
    async with database.transaction() as conn:
        rows = await conn.execute("SELECT body FROM audit_event WHERE kind = 'access-denied'")
        found = [json.loads(body) for (body,) in await rows.fetchall()]
    told: dict[str, tuple[str, int]] = {}
    for row in found:
        detail = {one["type"]: one["valueString"] for entity in row["entity"] for one in entity.get("detail", ())}
        assert row["agent"][0]["network"]["address"] == "127.0.0.1"
        before = told.get(detail["listener"], ("", 0))[1]
        told[detail["listener"]] = (row["outcomeDesc"], before + int(detail["count"]))
    return told


@pytest.mark.parametrize("with_tls", [False, True], ids=["by the allow-list", "without TLS"])
async def test_strangers_are_counted(database: Database, tmp_path: Path, with_tls: bool) -> None:
    ports = {"mllp": free_port(), "dicom": free_port(), "http": free_port()}
    sections: dict[str, dict[str, object]] = {name: {"port": port} for name, port in ports.items()}
    if with_tls:
        pair = Authority(tmp_path).issue("server")
        for section in sections.values():
            section["tls"] = {"certificate": pair.certificate, "key": pair.key}
    else:
        for section in sections.values():
            section["allow"] = ["10.0.0.0/8"]
    settings = load(None, {"data_dir": tmp_path, **sections})
    stop = asyncio.Event()
    running = asyncio.create_task(run_roles(settings, database.url, ["http", "mllp", "dicom"], alone=True, stop=stop))
    try:
        for _ in range(2):
            await knock(ports["mllp"], b"\x0bMSH|" + b"x" * 100)
            await knock(ports["http"], b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            if with_tls:
                await knock(ports["dicom"], b"x" * 100)
            else:
                _, writer = await connected(ports["dicom"])
                writer.close()
                await asyncio.to_thread(associate, ports["dicom"])
    finally:
        stop.set()
        await running
    allowed = "not in the allow-list"
    assert await refusals(database) == (
        {
            "mllp": ("TLS handshake failed: wrong version number", 2),
            "dicom": ("TLS handshake failed: wrong version number", 2),
            "http": ("TLS handshake failed: http request", 2),
        }
        if with_tls
        else {
            "mllp": (allowed, 2),
            "dicom": (f"calling AE title or address {allowed}", 2),
            "http": (allowed, 2),
        }
    )
