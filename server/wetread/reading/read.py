"""One model reads one series: selection, geometry, preprocessing, inference, interpretation.

Synchronous; seconds to minutes of CPU or GPU: call it from the inference process.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray

from wetread.domain.finding import Finding
from wetread.domain.study import age_years
from wetread.errors import Refused, Unsupported
from wetread.reading.interpret import checked, film_findings, volume_findings, volume_masks
from wetread.reading.manifest import Embedding, FilmInput, Select, VolumeInput
from wetread.reading.models import ModelPackage, with_spacing
from wetread.reading.preprocess import prepare_film, prepare_volume
from wetread.reading.runtime import Runtime
from wetread.reading.volume import MAX_LOST_SHARE, assemble


@dataclass(frozen=True)
class Answer:
    """`masks`: frames x rows x columns by segment number, frame i on `source_instances[i]`; empty for films.

    `embedding`: the feature vector of the key image, for drift monitoring; None where the model gives none.
    """

    findings: tuple[Finding, ...]
    masks: dict[int, NDArray[np.bool_]]
    source_instances: tuple[str, ...]
    warnings: tuple[str, ...]
    embedding: NDArray[np.float32] | None = field(repr=False)
    duration_ms: int


def read_series(
    package: ModelPackage, datasets: Sequence[pydicom.Dataset], runtime: Runtime, *, spacing_mm: float | None = None
) -> Answer:
    """What the model says of the series.

    `spacing_mm` puts a volume model on a coarser grid: store the result under the identity of
    `with_spacing(package, spacing_mm)`, whose `config_digest` tells the two apart.

    A slice or film that cannot be read is skipped with a warning while at most a tenth are lost; beyond that the
    series is refused. Raises InvalidInput (naming the SOP Instance UID and the reason), Unsupported (not what the model
    was made for), Refused (the model failed, or returned a value that is not a number).
    """
    started = time.monotonic()
    if spacing_mm is not None:
        package = with_spacing(package, spacing_mm)
    if reason := why_not(package.manifest.select, datasets):
        raise Unsupported(f"model {package.name!r} does not read this series: {reason}")
    declared = package.manifest.input
    if isinstance(declared, VolumeInput):
        findings, masks, sources, warnings, embedding = *_read_volume(package, declared, datasets, runtime), None
    else:
        masks = {}
        findings, sources, warnings, embedding = _read_films(package, declared, datasets, runtime)
    return Answer(findings, masks, sources, warnings, embedding, round((time.monotonic() - started) * 1000))


def why_not(select: Select, datasets: Sequence[pydicom.Dataset]) -> str | None:
    """Why the series is outside the model's declared selection; None where nothing speaks against it.

    Modality must be stated; other attributes count only where the images state them.
    """
    if not datasets:
        return "it has no images"
    if len(datasets) < select.min_images:
        return f"it has {len(datasets)} images, fewer than {select.min_images}"
    first = datasets[0]
    if str(first.get("Modality", "")) not in select.modality:
        return f"its modality is not {' or '.join(select.modality)}"
    body_part = str(first.get("BodyPartExamined", "") or "").upper()
    if select.body_part and body_part and body_part not in select.body_part:
        return f"its body part is not {' or '.join(select.body_part)}"
    if select.contrast == "none" and first.get("ContrastBolusAgent"):
        return "it was made with contrast agent"
    age = age_years(*(str(first.get(keyword, "") or "") for keyword in ("PatientAge", "PatientBirthDate", "StudyDate")))
    if age is not None and select.age_years_max is not None and age > select.age_years_max:
        return f"the patient is older than {select.age_years_max:g} years"
    if age is not None and select.age_years_min is not None and age < select.age_years_min:
        return f"the patient is younger than {select.age_years_min:g} years"
    return None


def _read_volume(
    package: ModelPackage, declared: VolumeInput, datasets: Sequence[pydicom.Dataset], runtime: Runtime
) -> tuple[tuple[Finding, ...], dict[int, NDArray[np.bool_]], tuple[str, ...], tuple[str, ...]]:
    volume = assemble(datasets)
    prepared = prepare_volume(volume, declared)
    outputs = checked(runtime.run(package, {declared.name: prepared.array[None, None]}), package.manifest)
    masks = volume_masks(outputs, package.manifest, prepared.grid, volume)
    findings = volume_findings(masks, package.manifest, volume)
    return findings, masks, volume.sop_instance_uids, volume.warnings


def _read_films(
    package: ModelPackage, declared: FilmInput, datasets: Sequence[pydicom.Dataset], runtime: Runtime
) -> tuple[tuple[Finding, ...], tuple[str, ...], tuple[str, ...], NDArray[np.float32] | None]:
    """Each film by itself; a finding of the series is that of the film with the highest probability."""
    best: dict[str, Finding] = {}
    outputs_of: dict[str, dict[str, NDArray[Any]]] = {}
    warnings: list[str] = []
    lost: list[Refused] = []
    views = package.manifest.select.view_position
    for dataset in datasets:
        view = str(dataset.get("ViewPosition", "") or "")
        if views and view and view not in views:
            warnings.append(f"a film of view {view} left out: the model reads {', '.join(views)}")
            continue
        uid = str(dataset.get("SOPInstanceUID", ""))
        try:
            film = prepare_film(dataset, declared)
        except Refused as error:
            lost.append(error)
            continue
        outputs = dict(checked(runtime.run(package, {declared.name: film}), package.manifest))
        outputs_of[uid] = outputs
        for finding in film_findings(outputs, package.manifest, uid):
            held = best.get(finding.key)
            if held is None or (finding.probability or 0) > (held.probability or 0):
                best[finding.key] = finding
    if lost and (not outputs_of or len(lost) > MAX_LOST_SHARE * (len(lost) + len(outputs_of))):
        raise type(lost[0])(f"{len(lost)} of {len(lost) + len(outputs_of)} films cannot be read: {lost[0].message}")
    if not outputs_of:
        raise Unsupported("the series has no film of a view that the model reads")
    warnings += [f"film skipped: {error.message}" for error in lost]
    name = next((o.name for o in package.manifest.outputs if isinstance(o, Embedding)), None)
    shown = next((f.key_image for f in best.values() if f.key_image), next(iter(outputs_of)))
    embedding = None if name is None else outputs_of[shown][name].reshape(-1).astype(np.float32)
    return tuple(best.values()), tuple(outputs_of), tuple(warnings), embedding
