"""Infer: one model reads one series, in the inference process. Its answer is kept; nobody has seen it yet."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version

import numpy as np
import pydicom
from numpy.typing import NDArray

from wetread.archive import instances
from wetread.domain.finding import Reading
from wetread.domain.reader import SYSTEM
from wetread.errors import Misconfigured, NotFound, Refused
from wetread.reading import runs, studies
from wetread.reading.conclusion import conclude
from wetread.reading.models import ModelPackage
from wetread.reading.read import Answer, read_series
from wetread.reading.runs import Run
from wetread.reading.runtime import Runtime
from wetread.reading.steps import REPORT
from wetread.record.audit import audit
from wetread.store.blobs import LocalBlobs
from wetread.store.database import Connection, Database
from wetread.wire import dicom
from wetread.work.jobs import Payload, Work


@dataclass(frozen=True)
class Infer:
    database: Database
    work: Work
    blobs: LocalBlobs
    packages: Mapping[str, ModelPackage]
    runtime: Runtime
    demo: bool

    async def __call__(self, payload: Payload) -> None:
        """Reads, and keeps answer, audit row and the next step in one transaction. A refusal is the run's failure."""
        run = await self._queued(payload["run_id"])
        if run is None:
            return
        try:
            package = self._package(run)
            async with self.database.transaction() as conn:
                keys = await instances.keys_of_series(conn, SYSTEM, run.series_instance_uid)
            answer = await asyncio.to_thread(self._read, package, [key for _, key in keys])
        except Refused as error:
            await self.give_up(payload, error)
            return
        reading = self._reading(run, package, answer)
        mask_key = f"masks/{run.id}.npz" if answer.masks else None
        if mask_key is not None:
            await asyncio.to_thread(self.blobs.put, mask_key, pack_masks(answer.masks))
        async with self.database.transaction() as conn:
            if not await runs.finished(conn, run.id, reading, mask_key):
                return
            await audit.write(conn, await self._audit(conn, run, reading.runtime, reading, None))
            await self.work.enqueue(conn, REPORT, {"run_id": run.id}, key=f"report:{run.id}")

    async def give_up(self, payload: Payload, error: BaseException) -> None:
        """The run has failed: so say run, Task (unless the model is silent) and audit."""
        reason = error.message if isinstance(error, Refused) else f"the model run failed ({type(error).__name__})"
        async with self.database.transaction() as conn:
            run = await runs.by_id(conn, payload["run_id"])
            if run is None or not await runs.failed(conn, run.id, reason):
                return
            await audit.write(conn, await self._audit(conn, run, "", None, reason))
            study = await studies.lock(conn, run.study_instance_uid)
            if study is not None and run.phase.is_released:
                await conclude(conn, study)

    async def _queued(self, run_id: str) -> Run | None:
        async with self.database.transaction() as conn:
            run = await runs.by_id(conn, run_id)
        return run if run is not None and run.state == "queued" else None

    def _package(self, run: Run) -> ModelPackage:
        package = self.packages.get(run.model_name)
        if package is None:
            raise NotFound(f"the model {run.model_name} is no longer installed")
        if (package.identity.digest, package.identity.config_digest) != (run.model_digest, run.config_digest):
            raise Misconfigured(
                f"the model {run.model_name} was replaced after this run was queued; complete the study anew"
            )
        return package

    def _read(self, package: ModelPackage, keys: list[str]) -> Answer:
        datasets: list[pydicom.Dataset] = [dicom.read(self.blobs.get(key)) for key in keys]
        return read_series(package, datasets, self.runtime)

    def _reading(self, run: Run, package: ModelPackage, answer: Answer) -> Reading:
        return Reading(
            run_id=run.id,
            study_instance_uid=run.study_instance_uid,
            series_instance_uid=run.series_instance_uid,
            revision=run.revision,
            model=package.identity,
            phase=run.phase,
            findings=answer.findings,
            source_instances=answer.source_instances,
            read_at=datetime.now(UTC).replace(microsecond=0),
            runtime=self.runtime.describe(package),
            duration_ms=answer.duration_ms,
            warnings=answer.warnings,
            demo=self.demo,
        )

    async def _audit(
        self, conn: Connection, run: Run, runtime: str, reading: Reading | None, failure: str | None
    ) -> audit.AuditEntry:
        """Input, model and runtime; a silent run's row says nothing of its output and is governance's alone."""
        study_id, patient_id = await _study_and_patient(conn, run.study_instance_uid)
        detail = {
            "run": run.id,
            "model": f"{run.model_name} {run.model_version}",
            "model-sha256": run.model_digest,
            "configuration": run.config_digest,
            "phase": run.phase.value,
            "series": run.series_instance_uid,
            "wetread": version("wetread"),
        }
        if runtime:
            detail["runtime"] = runtime
        if reading is not None:
            detail |= {"duration-ms": str(reading.duration_ms), "instances": str(len(reading.source_instances))}
            if run.phase.is_released:
                detail["output"] = "; ".join(
                    f"{f.key}={'present' if f.present else 'absent'}" for f in reading.findings if f.present is not None
                )
        return audit.AuditEntry(
            kind="ai-inference",
            action="E",
            outcome="0" if failure is None else "8",
            outcome_text=failure or "",
            principal="wetread",
            patient_id=patient_id,
            entities=(audit.Entity(f"ImagingStudy/{study_id}", identifier=f"urn:oid:{run.study_instance_uid}"),),
            detail={key: value for key, value in detail.items() if value},
            governance_only=not run.phase.is_released,
        )


async def _study_and_patient(conn: Connection, study_instance_uid: str) -> tuple[str, str]:
    row = await (
        await conn.execute("SELECT id, patient_id FROM study WHERE study_instance_uid = %s", (study_instance_uid,))
    ).fetchone()
    if row is None:
        raise NotFound("no study has this UID")
    return str(row[0]), str(row[1])


def pack_masks(masks: Mapping[int, NDArray[np.bool_]]) -> bytes:
    """Masks as bits, compressed: a 512 x 512 x 28 mask takes a few kB."""
    arrays: dict[str, NDArray[np.generic]] = {}
    for number, mask in masks.items():
        arrays[f"bits{number}"] = np.packbits(mask)
        arrays[f"shape{number}"] = np.array(mask.shape)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def unpack_masks(data: bytes) -> dict[int, NDArray[np.bool_]]:
    """The masks that `pack_masks` packed."""
    with np.load(io.BytesIO(data)) as stored:
        numbers = [int(name.removeprefix("bits")) for name in stored.files if name.startswith("bits")]
        return {n: _unpacked(stored[f"bits{n}"], tuple(stored[f"shape{n}"])) for n in numbers}


def _unpacked(bits: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    count = int(np.prod(shape))
    return np.unpackbits(bits, count=count).reshape(shape).astype(np.bool_)
