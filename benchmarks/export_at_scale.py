"""A bulk export of many resources: time, processor time of our process and of the database, memory above idle.

    python -m benchmarks.export_at_scale [--resources 1000000] [--patients-level] [--elements status,code]

The store is filled by SQL with Observations of about 1 kB each and their patients, written with the index rows that an
export reads. The export runs as it does in a server: its steps through the job engine, its files flushed to disk.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import psycopg

from wetread.domain.reader import Reader, Scope
from wetread.record.export import jobs as export_jobs
from wetread.record.export import request as export_request
from wetread.record.export.export import Exporter
from wetread.record.export.jobs import EXPORT, SWEEP
from wetread.store import embedded, migrate
from wetread.store.database import Database
from wetread.work.jobs import Payload, Work

BASE = "http://localhost:8080/fhir"
READER = Reader("benchmark", (Scope.parse("system/*.rs"),))
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")

_BODY = """'{"resourceType":"Observation","id":"o' || n || '","meta":{"versionId":"1",'
 || '"lastUpdated":"2026-01-01T00:00:00.000Z"},'
 || '"text":{"status":"generated","div":"<div xmlns=\\"http://www.w3.org/1999/xhtml\\">Brain volume ' || n || ' mL, '
 || 'measured on the volumetric sequence, compared with the norm of age and sex</div>"},'
 || '"identifier":[{"system":"urn:dicom:uid","value":'
 || '"urn:oid:2.25.' || n || '"}],"status":"final","category":[{"coding":[{"system":'
 || '"http://terminology.hl7.org/CodeSystem/observation-category","code":"imaging"}]}],"code":{"coding":[{"system":'
 || '"http://loinc.org","code":"29463-7","display":"Body weight"}]},"subject":{"reference":"Patient/p' || n %% 10000
 || '"},"effectiveDateTime":"2026-01-01T00:00:00Z","issued":"2026-01-01T00:00:00.000Z","performer":[{"reference":'
 || '"Practitioner/1"}],"valueQuantity":{"value":' || n || '.50,"unit":"mL","system":"http://unitsofmeasure.org","code":'
 || '"mL"},"referenceRange":[{"low":{"value":1000.0,"unit":"mL"},"high":{"value":1500.0,"unit":"mL"}}]}'"""


def fill(url: str, count: int) -> None:
    """Observations o1.. and the patients p0..p9999 that they are of."""
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(
            "INSERT INTO resource (resource_type, id, version_id, last_updated, deleted, body)"
            " SELECT 'Patient', 'p' || n, 1, '2026-01-01', false,"
            ' \'{"resourceType":"Patient","id":"p\' || n || \'"}\' FROM generate_series(0, 9999) n'
        )
        for start in range(1, count + 1, 100_000):
            conn.execute(
                "WITH made AS (INSERT INTO resource (resource_type, id, version_id, last_updated, deleted, body)"
                f" SELECT 'Observation', 'o' || n, 1, '2026-01-01', false, {_BODY}"
                " FROM generate_series(%s::int, %s::int) n RETURNING key, id)"
                " INSERT INTO index_reference (resource_key, resource_type, param, target_type, target_id, url,"
                " identifier_system, identifier_value)"
                " SELECT key, 'Observation', 'subject', 'Patient', 'p' || substr(id, 2)::bigint %% 10000, '', '', ''"
                " FROM made",
                (start, min(start + 99_999, count)),
            )
        conn.execute("VACUUM ANALYZE")


def cpu_s(pid: int) -> float:
    """User and system time of a process and of its children that have ended; 0 for one that has ended itself."""
    if not Path(f"/proc/{pid}").exists():
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(map(int, fields[11:15])) * _TICK_S


def tree(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in tree(int(child)))]


def rss_mb(pid: int, field: str = "VmRSS") -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def forget_peak() -> None:
    """Lets VmHWM begin anew (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


async def export(url: str, folder: Path, params: list[tuple[str, str]], level: str) -> None:
    database = Database(url)
    await database.open()

    async def on_dead(step: str, payload: Payload, error: BaseException) -> None:
        raise error

    work = Work(database, on_dead)
    limits_ = {"file_bytes": 64 << 20, "batch_bytes": 4 << 20}
    exporter = Exporter(database, work, folder, BASE, retention=timedelta(hours=1), **limits_)
    work.bind(EXPORT, exporter)
    work.bind(SWEEP, exporter.sweep)
    await work.open()
    stop = asyncio.Event()
    worker = asyncio.create_task(work.run(["work"], concurrency=8, alone=True, stop=stop))
    await asyncio.sleep(1)
    with psycopg.connect(url, autocommit=True) as conn:
        row = conn.execute("SELECT pg_read_file('postmaster.pid', 0, 20)").fetchone()
    assert row is not None
    postmaster = int(str(row[0]).split()[0])
    idle_mb = rss_mb(os.getpid())
    forget_peak()
    own, theirs = cpu_s(os.getpid()), sum(map(cpu_s, tree(postmaster)))
    started = time.monotonic()
    request = export_request.read(READER, level, params)
    async with database.transaction() as conn_:
        job_id: UUID = await export_jobs.start(conn_, work, READER, request, BASE, BASE, most_jobs=1)
    while True:
        await asyncio.sleep(0.05)
        async with database.transaction() as conn_:
            job = await export_jobs.find(conn_, job_id)
        assert job is not None
        if job.state == "complete":
            break
        assert job.state != "failed", job.failure
    took = time.monotonic() - started
    own, theirs = cpu_s(os.getpid()) - own, sum(map(cpu_s, tree(postmaster))) - theirs
    async with database.transaction() as conn_:
        made = await export_jobs.files(conn_, job)
    size_mb = sum(each.bytes for each in made) / 1e6
    print(f"{job.resources} resources, {size_mb:.0f} MB in {len(made)} files: {took:.1f} s")
    print(f"  {job.resources / took:.0f} resources/s, {job.resources / (own + theirs):.0f} per CPU second")
    print(f"  CPU: own {own:.2f} s, database {theirs:.2f} s")
    print(f"  memory: idle {idle_mb:.0f} MB, peak {rss_mb(os.getpid(), 'VmHWM') - idle_mb:.0f} MB above it")
    stop.set()
    await worker
    await database.close()


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--resources", type=int, default=200_000)
    options.add_argument("--level", default="system", choices=("system", "patient"))
    options.add_argument("--param", action="append", default=[], help="a kick-off parameter, name=value")
    options.add_argument("--folder", type=Path, help="keeps the database there for the next run")
    given = options.parse_args()
    params = [(name, value) for name, _, value in (text.partition("=") for text in given.param)]
    with tempfile.TemporaryDirectory() as folder:
        root = given.folder or Path(folder)
        with embedded.owned(root / "postgres") as url:
            migrate.upgrade(url)
            with psycopg.connect(url) as conn:
                row = conn.execute("SELECT count(*) FROM resource WHERE resource_type = 'Observation'").fetchone()
            if row is None or row[0] == 0:
                started = time.monotonic()
                fill(url, given.resources)
                print(f"filled in {time.monotonic() - started:.0f} s")
            asyncio.run(export(url, root / "exports", params, given.level))


if __name__ == "__main__":
    main()
