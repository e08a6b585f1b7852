"""MLLP orders, acknowledged and durable, beside the bare commit rate of the same database."""

from __future__ import annotations

import socket
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psycopg

from benchmarks.stand import DEMO, table, wetread
from wetread.store import embedded


def _exchange(port: int, message: bytes, count: int, worker: int, refused: list[bytes]) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number in range(count):
            unique = message.replace(b"DEMO0001", b"B%02d%07d" % (worker, number)).replace(
                b"1001", b"%02d%07d" % (worker, number)
            )
            connection.sendall(b"\x0b" + unique + b"\x1c\r")
            answer = b""
            while not answer.endswith(b"\x1c\r"):
                answer += connection.recv(4096)
            if b"MSA|AA" not in answer:
                refused.append(answer)


def _commit(url: str, payload: bytes, count: int) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for _ in range(count):
            connection.execute("INSERT INTO bench (raw) VALUES (%s)", (payload,))


def _rate(count: int, workers: int, work: Callable[[int, int], None]) -> float:
    threads = [threading.Thread(target=work, args=(worker, count // workers)) for worker in range(workers)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return count / (time.monotonic() - started)


def run(folder: Path, *, quick: bool) -> str:
    count, rounds = (40, 1) if quick else (2000, 3)
    message = (DEMO / "orders" / "chest-film.hl7").read_bytes()
    found: dict[tuple[str, int], list[float]] = {}
    refused: list[bytes] = []
    with wetread(folder / "server") as running, embedded.borrowed(running.data_dir) as url:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE TABLE bench (id bigserial PRIMARY KEY, raw bytea)")
        port = running.ports["mllp"]
        for round_number in range(rounds):
            for workers in (1, 8):
                base = round_number * 20 + workers

                def acknowledge(worker: int, share: int, base: int = base) -> None:
                    _exchange(port, message, share, base + worker, refused)

                def commit(worker: int, share: int) -> None:
                    _commit(url, message, share)

                found.setdefault(("orders", workers), []).append(_rate(count, workers, acknowledge))
                _drain(url)
                found.setdefault(("commits", workers), []).append(_rate(count, workers, commit))
        mapped_s = _drain(url)
    if refused:
        raise RuntimeError(f"{len(refused)} orders were refused: {refused[0]!r}")
    rows = []
    for workers in (1, 8):
        own, bare = (statistics.median(found[what, workers]) for what in ("orders", "commits"))
        rows.append([workers, f"{own:.0f}", f"{bare:.0f}", f"{own / bare:.2f}"])
    notes = (
        f"{count} ORM^O01 of {len(message)} bytes, each with its own patient, order and accession number, medians of "
        f"{rounds} rounds; the bare rate inserts the same bytes, one commit each, on the same embedded PostgreSQL from "
        f"Python threads. Mapping to FHIR follows after the answer and is not in these figures; after the last round "
        f"it was done {mapped_s:.1f} s after the last acknowledgement."
    )
    return table("MLLP orders", ("connections", "orders/s acknowledged", "bare commits/s", "ratio"), rows, notes)


def _drain(url: str) -> float:
    """Seconds until every accepted message is mapped."""
    started = time.monotonic()
    with psycopg.connect(url, autocommit=True) as connection:
        while True:
            row = connection.execute("SELECT count(*) FROM hl7_message WHERE state = 'accepted'").fetchone()
            if row is not None and row[0] == 0:
                return time.monotonic() - started
            time.sleep(0.1)
