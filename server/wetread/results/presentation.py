"""The findings of 2D images as a Grayscale Softcopy Presentation State (PS3.3 A.33.1), for archives that show them."""

from __future__ import annotations

from collections.abc import Sequence

import highdicom.pr as hd
import numpy as np
import pydicom
from highdicom.color import CIELabColor
from pydicom.dataset import Dataset

from wetread.domain.finding import Finding, Reading
from wetread.errors import InvalidInput, Unsupported
from wetread.results import identity
from wetread.results.context import ReadingContext
from wetread.results.header import normalised
from wetread.results.instance import common, processing_equipment, stamped
from wetread.results.narrative import finding_text, model_label

NOT_FOR_DIAGNOSIS = "AI - NOT FOR DIAGNOSIS"
_COLOUR = CIELabColor.from_rgb(255, 196, 0)


def presentation(reading: Reading, context: ReadingContext, sources: Sequence[pydicom.Dataset]) -> pydicom.Dataset:
    """One GSPS with a text annotation on every image, and an outline where a finding has one.

    A finding with a key image is written there, others on every image. Raises InvalidInput for colour images (a GSPS
    may refer to monochrome ones only) and where there is no finding, Unsupported for multi-frame images of old IODs.
    """
    headers = normalised(sources, reading)
    if not reading.findings:
        raise InvalidInput("a presentation state needs a finding to show")
    if any(h.get("SamplesPerPixel", 1) != 1 for h in headers):
        raise InvalidInput("a grayscale presentation state cannot refer to colour images (PS3.3 C.11.10)")
    layer = hd.GraphicLayer("AI", order=1, description=NOT_FOR_DIAGNOSIS, display_color=_COLOUR)
    try:
        state = hd.GrayscaleSoftcopyPresentationState(
            referenced_images=headers,
            content_label="AI_FINDINGS",
            content_description=NOT_FOR_DIAGNOSIS,
            graphic_layers=[layer],
            graphic_annotations=[_annotation(reading, context, header, layer) for header in headers],
            contributing_equipment=[processing_equipment(reading, context)],
            **common(reading, context, "presentation"),
        )
    except (ValueError, AttributeError) as error:
        raise Unsupported("no presentation state can refer to images of this kind (multi-frame of old IODs)") from error
    state.Laterality = ""  # General Series (PS3.3 C.7.3.1): 2C, and the body part is not told.
    return stamped(state, reading, sources[0])


def _annotation(
    reading: Reading, context: ReadingContext, header: Dataset, layer: hd.GraphicLayer
) -> hd.GraphicAnnotation:
    findings = [f for f in reading.findings if f.key_image in (None, header.SOPInstanceUID)]
    outlines = [f for f in findings if f.outline and f.key_image == header.SOPInstanceUID]
    lines = [
        *(["DEMO - NOT FOR CLINICAL USE"] if context.demo or reading.demo else []),
        NOT_FOR_DIAGNOSIS,
        model_label(reading.model),
        *(finding_text(f) for f in findings),
    ]
    text = hd.TextObject(
        "\r\n".join(lines)[:1024],
        units=hd.AnnotationUnitsValues.DISPLAY,
        bounding_box=(0.02, 0.02, 0.7, 0.25),
        text_justification=hd.TextJustificationValues.LEFT,
    )
    return hd.GraphicAnnotation(
        referenced_images=[header],
        graphic_layer=layer,
        text_objects=[text],
        graphic_objects=[_outline(reading, finding) for finding in outlines] or None,
    )


def _outline(reading: Reading, finding: Finding) -> hd.GraphicObject:
    """PIXEL units count from 1 at the top left corner of the first pixel (PS3.3 C.10.5.1.2), outlines from 0."""
    points = [*finding.outline, finding.outline[0]]
    return hd.GraphicObject(
        graphic_type=hd.GraphicTypeValues.POLYLINE,
        graphic_data=np.array(points, dtype=np.float64) + 1.0,
        units=hd.AnnotationUnitsValues.PIXEL,
        tracking_id=identity.tracking_id(reading, finding),
        tracking_uid=identity.tracking_uid(reading, finding),
    )
