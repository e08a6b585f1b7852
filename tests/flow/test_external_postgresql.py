"""Debian's PostgreSQL 15, and the roles split over processes as over hosts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import psycopg
import pytest

from tests.ports import free_port
from wetread.demo import peers

from .conftest import Hospital, Server, Story, configuration, overlay, until
from .debian_postgresql import debian_postgresql

pytestmark = pytest.mark.peer

PROCESSES = {
    "front": "http,mllp",
    "dicom": "dicom",
    "work-1": "work,notify",
    "work-2": "work,notify",
    "infer": "infer",
}


@dataclass
class Split:
    hospital: Hospital
    processes: dict[str, Server]
    database_url: str


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory, heard: peers.Heard, peer_ports: dict[str, int]) -> Iterator[Split]:
    folder = tmp_path_factory.mktemp("split")
    ports = {name: free_port() for name in ("http", "mllp", "dicom")}
    config = folder / "wetread.toml"
    config.write_text(configuration(ports, peer_ports, overlay_dir=overlay(folder)))
    with ExitStack() as stack:
        postgresql = stack.enter_context(debian_postgresql(free_port()))
        processes = {}
        for name, roles in PROCESSES.items():
            environment = {"WETREAD_DATABASE_URL": postgresql.url}
            processes[name] = Server(config, folder / "data", ports, environment, ("--roles", roles))
            processes[name].start()
            stack.callback(processes[name].stop)
        stack.callback(lambda: [p.process.terminate() for p in processes.values() if p.process is not None])
        processes["front"].wait_ready()
        yield Split(Hospital(processes["front"], heard, peer_ports["subscriber"]), processes, postgresql.url)


def test_the_main_job_runs_with_its_roles_apart(split: Split, story: Callable[[str], Story]) -> None:
    bleed, hospital = story("head-ct-phantom-bleed"), split.hospital
    assert hospital.order(bleed.message).code == "AA"
    hospital.store(bleed.datasets)
    _completed(hospital, bleed)
    until("the alert", lambda: hospital.alerts(bleed.accession_number))
    until("the SEG", lambda: hospital.objects("SEG", bleed.study_instance_uid))
    until("the SR", lambda: hospital.objects("SR", bleed.study_instance_uid))


@pytest.mark.parametrize("killed", ["work-1", "infer"])
def test_another_process_takes_over_from_a_killed_one(split: Split, story: Callable[[str], Story], killed: str) -> None:
    bleed, hospital = story("head-ct-phantom-bleed"), split.hospital
    assert hospital.order(bleed.message).code == "AA"
    hospital.store(bleed.datasets)
    with psycopg.connect(split.database_url, autocommit=True) as conn:
        until(
            "work in hand", lambda: conn.execute("SELECT 1 FROM procrastinate_jobs WHERE status = 'doing'").fetchall()
        )
    split.processes[killed].kill()
    began = time.monotonic()
    if killed == "infer":
        # Of this there is one only; a supervisor would start it again.
        split.processes[killed].start()
    _completed(hospital, bleed)
    [alert] = until("the alert", lambda: set(hospital.alerts(bleed.accession_number)))
    assert alert
    print(f"{killed} killed: alerted {time.monotonic() - began:.1f} s later")
    if killed.startswith("work"):
        split.processes[killed].start()
    split.processes["front"].wait_ready()


def _completed(hospital: Hospital, told: Story) -> None:
    until("the Task to be completed", lambda: hospital.task_of(told.accession_number).get("status") == "completed", 60)
