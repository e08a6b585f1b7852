"""What every DICOM instance made from a reading has in common: equipment, series, times, bytes."""

from __future__ import annotations

import io
import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pydicom
from highdicom.base_content import ContributingEquipment
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from wetread.domain.codes import Coded
from wetread.domain.finding import Reading
from wetread.results import identity
from wetread.results.context import ObjectRef, ReadingContext
from wetread.results.header import patient_name
from wetread.results.narrative import NOT_FOR_CLINICAL_USE, model_label, model_name, plain

SERIES_NUMBER = {"sr": 9000, "seg": 9001, "presentation": 9002}
_LOCAL_SCHEME = "99LOCAL"


def long_string(text: str, length: int = 64) -> str:
    """Text as the one value of an LO (PS3.5 6.2): one line, without the backslash.

    At most 64 characters are allowed; 64 bytes of UTF-8 please the readers that count those.
    """
    line = " ".join(plain(text).replace("\\", "/").split())
    return line.encode()[:length].decode(errors="ignore").strip()


def concept(coded: Coded) -> CodedConcept:
    """A code for a DICOM sequence; of a system without a DICOM designator (a site's procedure codes), a local one."""
    try:
        scheme = coded.scheme
    except KeyError:
        scheme = _LOCAL_SCHEME
    return CodedConcept(long_string(coded.code), scheme, long_string(coded.display or coded.code))


def common(reading: Reading, context: ReadingContext, kind: str) -> dict[str, Any]:
    """Arguments that every highdicom SOP class takes; `kind` is sr, seg or presentation."""
    model = reading.model
    prefix = "DEMO " if context.demo or reading.demo else ""
    sop_instance_uid = identity.sop_instance_uid(reading, kind)
    return {
        "series_instance_uid": identity.series_uid_of(sop_instance_uid),
        "series_number": SERIES_NUMBER[kind],
        "series_description": long_string(f"{prefix}AI {model_label(model)}"),
        "sop_instance_uid": sop_instance_uid,
        "instance_number": 1,
        "manufacturer": long_string(model.manufacturer),
        "manufacturer_model_name": long_string(model_name(model)),
        "software_versions": long_string(model.version),
        "device_serial_number": long_string(model.digest),
        "specific_character_set": "ISO_IR 192",
        "coding_schemes": [
            CodingSchemeIdentificationItem("99WETREAD", name="Wetread", responsible_organization="Wetread")
        ],
    }


def processing_equipment(reading: Reading, context: ReadingContext) -> ContributingEquipment:
    """The model as contributing equipment (IHE AIR 6.5.3.1; PS3.3 C.12.1.1.5)."""
    model = reading.model
    caveat = f" {NOT_FOR_CLINICAL_USE}" if model.not_for_clinical_use else ""
    item = ContributingEquipment(
        manufacturer=long_string(model.manufacturer),
        purpose_of_reference=codes.DCM.ProcessingEquipment,
        manufacturer_model_name=long_string(model_name(model)),
        software_versions=long_string(model.version),
        device_serial_number=long_string(model.digest),
        institution_name=long_string(context.organization) or None,
        contribution_datetime=reading.read_at,
        contribution_description=f"AI model {model_label(model)}.{caveat}",
    )
    item.DeviceUID = identity.model_device_uid(reading)
    return item


def stamped(dataset: Dataset, reading: Reading, source: Dataset) -> Dataset:
    """The dataset with the patient's name, and with all its times those of the reading: twice gives the same bytes.

    Timezone Offset From UTC (PS3.3 C.12.1.1.8) governs every date and time of the dataset, those copied from the
    source too; so it is the source's where it has one, else UTC.
    """
    dataset.PatientName = patient_name(source)
    at = _local(reading, source.get("TimezoneOffsetFromUTC"))
    dataset.TimezoneOffsetFromUTC = at.strftime("%z")
    for date, time in (("InstanceCreationDate", "InstanceCreationTime"), ("ContentDate", "ContentTime"),
                       ("PresentationCreationDate", "PresentationCreationTime")):  # fmt: skip
        if date in dataset:
            setattr(dataset, date, at.strftime("%Y%m%d"))
            setattr(dataset, time, at.strftime("%H%M%S.%f"))
    for item in dataset.get("ContributingEquipmentSequence", []):
        if "ContributionDateTime" in item:
            item.ContributionDateTime = at.strftime("%Y%m%d%H%M%S.%f")
    return dataset


def reference(dataset: pydicom.Dataset) -> ObjectRef:
    return ObjectRef(dataset.SOPInstanceUID, dataset.SOPClassUID, dataset.SeriesInstanceUID)


def part10(dataset: pydicom.Dataset) -> bytes:
    """The dataset as a DICOM file (PS3.10 7). The same dataset gives the same bytes."""
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def _local(reading: Reading, offset: str | None) -> datetime:
    """`read_at` at a DICOM offset, -1200 to +1400 (PS3.3 C.12.1.1.8); in UTC where there is none or it is not one."""
    zone: timezone = UTC
    if offset and re.fullmatch(r"[+-](0\d|1[0-4])[0-5]\d", offset):
        shift = timedelta(hours=int(offset[1:3]), minutes=int(offset[3:]))
        zone = timezone(-shift if offset[0] == "-" else shift)
    return reading.read_at.astimezone(zone)
