"""What a reading says, as plain sentences and as XHTML for FHIR narratives. Holds no patient data."""

from __future__ import annotations

import html
import re

from wetread.domain.finding import Finding, Measurement, ModelIdentity, Reading

NOT_VERIFIED = "AI-generated, not verified by a physician."
NOT_FOR_CLINICAL_USE = "NOT FOR CLINICAL USE."
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def plain(text: str) -> str:
    """Text without the control characters that FHIR strings and XML forbid (FHIR R4 2.24.0.1)."""
    return _CONTROL.sub("", text).strip()


def model_name(model: ModelIdentity) -> str:
    """The model's name; that of a synthetic model always says so."""
    return plain(f"SYNTHETIC {model.name}" if model.synthetic else model.name)


def model_label(model: ModelIdentity) -> str:
    return f"{model_name(model)} {plain(model.version)}"


def measurement_text(measurement: Measurement) -> str:
    """E.g. `Volume 1507.1 mL (per-slice cell widths)`."""
    method = f" ({plain(measurement.method)})" if measurement.method else ""
    return f"{plain(measurement.code.display)} {measurement.value:f} {plain(measurement.unit_display)}{method}"


def finding_text(finding: Finding) -> str:
    """One sentence, e.g. `Pneumonia: present (probability 0.93, threshold 0.50).`"""
    parts = []
    if finding.laterality:
        parts.append(plain(finding.laterality.display))
    if finding.body_site:
        parts.append(plain(finding.body_site.display))
    if finding.probability is not None:
        parts.append(f"probability {finding.probability:f}")
    if finding.threshold is not None:
        parts.append(f"threshold {finding.threshold:f}")
    parts.extend(measurement_text(m) for m in finding.measurements)
    judgement = {True: "present", False: "absent", None: "measured"}[finding.present]
    details = f" ({', '.join(parts)})" if parts else ""
    return f"{plain(finding.code.display)}: {judgement}{details}."


def caveats(reading: Reading, *, demo: bool) -> tuple[str, ...]:
    """What every reader must be told beside the finding; the reading's own warnings come last."""
    model = reading.model
    return (
        *(("DEMO: made in a demonstration.",) if demo or reading.demo else ()),
        *(("SYNTHETIC model: trained on computer-generated data.",) if model.synthetic else ()),
        NOT_VERIFIED,
        *((NOT_FOR_CLINICAL_USE,) if model.not_for_clinical_use else ()),
        *(plain(w) for w in reading.warnings),
    )


def conclusion(reading: Reading, *, demo: bool) -> str:
    """The text of a report: one line per finding, then the model and the caveats."""
    findings = [finding_text(f) for f in reading.findings] or ["The model reported no finding."]
    return "\n".join([*findings, f"Read by {model_label(reading.model)}.", *caveats(reading, demo=demo)])


def xhtml(lines: str) -> str:
    """A FHIR narrative div of plain lines (FHIR R4 2.26.0), each a paragraph."""
    paragraphs = "".join(f"<p>{html.escape(plain(line))}</p>" for line in lines.splitlines() if line.strip())
    return f'<div xmlns="http://www.w3.org/1999/xhtml">{paragraphs}</div>'
