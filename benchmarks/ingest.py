"""C-STORE of CT slices, beside Orthanc and dcmtk storescp; the same sender, in the same run, round after round."""

from __future__ import annotations

import io
import json
import os
import shutil
import statistics
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pydicom
from pydicom.uid import generate_uid

from benchmarks.stand import DEMO, Running, free_port, peer, table, wetread
from wetread.demo.studies import instances, load_cases

_SENDER_PDU = "131072"


def slices(folder: Path, count: int, parts: int) -> list[Path]:
    """`count` real CT slices of 512 x 512 x 16 bit under fresh UIDs, in `parts` folders, one series each."""
    sources = instances(load_cases(DEMO)["head-ct"], DEMO)
    study = generate_uid()
    folders = [folder / f"part{part}" for part in range(parts)]
    for part, target in enumerate(folders):
        target.mkdir(parents=True)
        series = generate_uid()
        for number in range(count // parts):
            dataset = pydicom.dcmread(io.BytesIO(_bytes(sources[number % len(sources)])))
            dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
            dataset.SOPInstanceUID = generate_uid()
            dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
            dataset.InstanceNumber = number + 1
            dataset.save_as(target / f"{part}-{number:05}.dcm")
    return folders


def _bytes(dataset: pydicom.Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def send(folders: list[Path], port: int) -> float:
    """Seconds until the last sender has its last response; one association for each folder."""
    started = time.monotonic()
    senders = [
        subprocess.Popen(
            ["storescu", "-aec", "ANY", "-R", "-xe", "--max-pdu", _SENDER_PDU, "+sd", "127.0.0.1", str(port), str(f)],
            env={**os.environ, "TCP_NODELAY": "1"},
            stdout=subprocess.DEVNULL,
        )
        for f in folders
    ]
    statuses = [sender.wait() for sender in senders]
    if any(statuses):
        raise RuntimeError("a sender was refused")
    return time.monotonic() - started


@contextmanager
def orthanc(folder: Path) -> Iterator[Running]:
    port = free_port()
    folder.mkdir(parents=True)
    (folder / "orthanc.json").write_text(
        json.dumps(
            {
                "Name": "peer",
                "StorageDirectory": "db",
                "IndexDirectory": "db",
                "HttpPort": free_port(),
                "DicomPort": port,
                "DicomCheckCalledAet": False,
                "DicomAlwaysAllowStore": True,
                "UnknownSopClassAccepted": True,
            }
        )
    )
    with peer(["Orthanc", "orthanc.json"], port, folder) as running:
        yield running


@contextmanager
def storescp(folder: Path) -> Iterator[Running]:
    port = free_port()
    (folder / "out").mkdir(parents=True)
    with peer(["storescp", "--fork", "+B", "-od", "out", "-pdu", _SENDER_PDU, str(port)], port, folder) as running:
        yield running


_RECEIVERS: dict[str, Callable[[Path], object]] = {
    "Wetread (blob fsync, index row committed)": lambda folder: wetread(folder, quiet_s=3600),
    "Orthanc 1.10, defaults (file fsync, SQLite index)": orthanc,
    "dcmtk storescp +B --fork (file, no index, no fsync)": storescp,
}


def run(folder: Path, *, quick: bool) -> str:
    count, rounds = (40, 1) if quick else (1000, 2)
    rates: dict[tuple[str, int], list[float]] = defaultdict(list)
    costs: dict[tuple[str, int], list[float]] = defaultdict(list)
    for round_number in range(rounds):
        for associations in (1, 4):
            folders = slices(folder / "data", count, associations)
            for name, receiver in _RECEIVERS.items():
                place = folder / f"receiver{round_number}"
                with receiver(place) as running:  # type: ignore[attr-defined]
                    before = running.cpu_s()
                    seconds = send(folders, running.ports["dicom"])
                    rates[name, associations].append(count / seconds)
                    costs[name, associations].append((running.cpu_s() - before) / count * 1000)
                shutil.rmtree(place)
            shutil.rmtree(folder / "data")
    rows = [
        [
            name,
            *(f"{statistics.median(rates[name, n]):.0f}" for n in (1, 4)),
            *(f"{statistics.median(costs[name, n]):.2f}" for n in (1, 4)),
        ]
        for name in _RECEIVERS
    ]
    own, theirs = list(_RECEIVERS)[:2]
    ratios = [statistics.median(rates[own, n]) / statistics.median(rates[theirs, n]) for n in (1, 4)]
    notes = (
        f"{count} CT slices of 512 x 512 x 16 bit, sender dcmtk storescu with TCP_NODELAY and a PDU of 128 KiB; "
        f"medians of {rounds} interleaved rounds. Wetread / Orthanc: {ratios[0]:.2f} with one association, "
        f"{ratios[1]:.2f} with four. Processor time is that of the receiver's whole process tree, the embedded "
        "PostgreSQL and the noticing of the study with it."
    )
    head = ("receiver", "1 association, inst/s", "4 associations, inst/s", "CPU ms/inst (1)", "CPU ms/inst (4)")
    return table("C-STORE ingest", head, rows, notes)
