"""What a model's numbers mean: probabilities and maps become masks, measurements and findings, by its manifest."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from wetread.domain.finding import Finding, Measurement, Segment
from wetread.errors import Refused
from wetread.reading.manifest import DeclaredFinding, DeclaredSegment, LabelMap, Manifest, ProbabilityMap
from wetread.reading.outline import outline
from wetread.reading.volume import Grid, Volume, mask_on_slices, volume_ml

Arrays = Mapping[str, NDArray[Any]]
_CONNECTIVITY_RANK = {6: 1, 18: 2, 26: 3}
_METHOD = "pixel area x per-slice cell widths from true slice positions"


def checked(outputs: Arrays, manifest: Manifest) -> Arrays:
    """The outputs, if every declared one is there and finite, and probabilities lie in 0..1. Raises Refused."""
    for declared in manifest.outputs:
        if declared.name not in outputs:
            raise Refused(f"model {manifest.name!r} gave no output {declared.name!r}, which its manifest declares")
        values = outputs[declared.name]
        if not np.isfinite(values).all():
            raise Refused(f"model {manifest.name!r}: the model returned a value that is not a number")
        if "probability" in declared.kind and values.size and not (-1e-4 <= values.min() <= values.max() <= 1.0001):
            raise Refused(f"model {manifest.name!r}: the model returned a probability outside 0 to 1")
    return outputs


def film_findings(outputs: Arrays, manifest: Manifest, key_image: str) -> tuple[Finding, ...]:
    """The findings of one film. The number shown, to four places, is the number judged."""
    findings = []
    for declared in manifest.findings:
        if declared.output is None or declared.threshold is None:
            continue
        value = float(np.clip(outputs[declared.output].reshape(-1)[0], 0.0, 1.0))
        probability = Decimal(str(value)).quantize(Decimal("0.0001"))
        present = probability >= declared.threshold
        findings.append(
            Finding(
                key=declared.key,
                code=declared.code,
                present=present,
                probability=probability,
                threshold=declared.threshold,
                critical=declared.critical and present,
                body_site=declared.body_site,
                key_image=key_image,
            )
        )
    return tuple(findings)


def volume_masks(outputs: Arrays, manifest: Manifest, grid: Grid, volume: Volume) -> dict[int, NDArray[np.bool_]]:
    """The mask of each segment on the source images: frames x rows x columns by segment number. Raises Refused where
    an output has another shape than the grid."""
    masks: dict[int, NDArray[np.bool_]] = {}
    for declared in manifest.outputs:
        if not isinstance(declared, ProbabilityMap | LabelMap):
            continue
        values = outputs[declared.name]
        if values.size != np.prod(grid.shape) or values.shape[-3:] != grid.shape:
            raise Refused(f"model {manifest.name!r}: output {declared.name!r} has not the shape of the input")
        values = values.reshape(grid.shape)
        if isinstance(declared, ProbabilityMap):
            masks[declared.segment] = mask_on_slices(
                components(values > declared.threshold, declared, grid), grid, volume
            )
        else:
            for label, number in declared.segments.items():
                masks[number] = mask_on_slices(values == label, grid, volume)
    return dict(sorted(masks.items()))


def components(mask: NDArray[np.bool_], declared: ProbabilityMap, grid: Grid) -> NDArray[np.bool_]:
    """The mask without the components that the manifest drops: too small, or all but the largest."""
    structure = ndimage.generate_binary_structure(3, _CONNECTIVITY_RANK[declared.connectivity])
    labels, count = ndimage.label(mask, structure)
    if not count:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    keep = sizes * grid.voxel_ml >= declared.min_component_ml
    keep[0] = False
    if declared.keep == "largest":
        keep &= np.arange(len(sizes)) == np.argmax(sizes)
    return np.asarray(keep[labels])


def volume_findings(masks: Mapping[int, NDArray[np.bool_]], manifest: Manifest, volume: Volume) -> tuple[Finding, ...]:
    """The findings of a volume. The key image is the frame that shows most of the segment."""
    segments = {s.number: s for s in manifest.segments}
    return tuple(
        _volume_finding(declared, masks[declared.segment], segments[declared.segment], volume)
        for declared in manifest.findings
        if declared.segment is not None
    )


def _volume_finding(
    declared: DeclaredFinding, mask: NDArray[np.bool_], segment: DeclaredSegment, volume: Volume
) -> Finding:
    millilitres = Decimal(str(volume_ml(mask, volume))).quantize(Decimal("0.1"))
    present = None if declared.present_at_ml is None else millilitres >= declared.present_at_ml
    shown = int(np.argmax(mask.sum(axis=(1, 2)))) if mask.any() else None
    return Finding(
        key=declared.key,
        code=declared.code,
        present=present,
        critical=bool(declared.critical and present),
        body_site=declared.body_site,
        measurements=tuple(
            Measurement(m.key, m.code, millilitres, m.unit, m.unit_display, _METHOD) for m in declared.measurements
        ),
        segment=Segment(segment.number, segment.label, segment.category, segment.type, segment.colour)
        if shown is not None
        else None,
        key_image=None if shown is None else volume.sop_instance_uids[shown],
        outline=() if shown is None else outline(mask[shown]),
    )
