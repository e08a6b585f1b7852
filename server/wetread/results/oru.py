"""A critical finding as an HL7 v2.5.1 ORU^R01 (chapter 7), preliminary and never final.

hl7apy builds the message by its structure and data types. What came with the order is echoed verbatim instead of
through hl7apy, which drops trailing parts and escapes again what was escaped.
"""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime

from hl7apy.core import Group, Message, Segment

from wetread.domain.codes import SCT, Coded
from wetread.domain.finding import Finding, Measurement, Reading
from wetread.domain.identity import PatientIdentifier, PatientIdentity
from wetread.errors import InvalidInput
from wetread.results import vocabulary
from wetread.results.context import ReadingContext, body_site
from wetread.results.narrative import caveats, model_label, model_name, plain
from wetread.wire import hl7

_FINDING_SITE = Coded("363698007", SCT, "Finding Site")
_LOCAL_AUTHORITY = "urn:wetread:authority:"
_ECHO_MARK = "\x01"
"""Brackets a placeholder; cannot come from escaped text, which has no control characters."""


def alert(
    reading: Reading,
    context: ReadingContext,
    order: hl7.Message | None,
    patient: PatientIdentity,
    *,
    sending: tuple[str, str],
    receiving: tuple[str, str],
    processing_id: str,
    control_id: str,
    link: str,
) -> bytes:
    """The alert, UTF-8, segments ended by carriage return, without MLLP frame. The same input gives the same bytes.

    `sending` and `receiving` are (application, facility); `control_id` is MSH-10 (at most 20 characters); `link` leads
    a person to the study. PID, order numbers, procedure and accession are those of `order`, exactly as received and
    with its delimiters; `patient` and `context` speak where there is no order. An alert tells present findings with
    their measurements, nothing else: the report has the rest.
    Raises InvalidInput where the reading may not alert: no present critical finding, or a phase that is not active.
    """
    if not (reading.phase.may_alert and any(f.critical and f.present for f in reading.findings)):
        raise InvalidInput("only a present critical finding of an active model may alert")
    if len(control_id) > 20:
        raise InvalidInput("MSH-10 holds at most 20 characters (HL7 v2.5.1 2.14.9.10)", location="MSH^1^10")
    return _Alert(reading, context, order).build(patient, sending, receiving, processing_id, control_id, link)


class _Alert:
    """One message under construction: the delimiters it is written with, and the echoes to put in at the end."""

    def __init__(self, reading: Reading, context: ReadingContext, order: hl7.Message | None) -> None:
        self._reading = reading
        self._context = context
        self._order = order
        self._group = _group_of(order, context) if order else None
        # The truncation character is of 2.7; a 2.5.1 receiver would not undo its escape.
        self._delimiters = replace(order.delimiters, truncation="") if order else hl7.Delimiters()
        self._echoes: list[str] = []
        self._observations = 0

    def build(
        self,
        patient: PatientIdentity,
        sending: tuple[str, str],
        receiving: tuple[str, str],
        processing_id: str,
        control_id: str,
        link: str,
    ) -> bytes:
        marks = self._delimiters
        message = Message("ORU_R01", version="2.5.1", encoding_chars={
            "FIELD": marks.field, "COMPONENT": marks.component, "REPETITION": marks.repetition,
            "ESCAPE": marks.escape, "SUBCOMPONENT": marks.subcomponent, "SEGMENT": "\r", "GROUP": "\r",
        })  # fmt: skip
        self._header(message.msh, sending, receiving, processing_id, control_id)
        result = message.add_group("ORU_R01_PATIENT_RESULT")
        self._patient(result.add_group("ORU_R01_PATIENT"), patient)
        observed = result.add_group("ORU_R01_ORDER_OBSERVATION")
        self._request(observed)
        self._findings(observed)
        self._pointers(observed, link)
        text = message.to_er7(encoding_chars=message.encoding_chars)
        text = re.sub(f"{_ECHO_MARK}(\\d+){_ECHO_MARK}", lambda found: self._echoes[int(found[1])], text)
        return (text.rstrip("\r") + "\r").encode()

    def _header(
        self,
        msh: Segment,
        sending: tuple[str, str],
        receiving: tuple[str, str],
        processing_id: str,
        control_id: str,
    ) -> None:
        names = (*sending, *receiving)
        for field, name in zip(("msh_3", "msh_4", "msh_5", "msh_6"), names, strict=True):
            setattr(msh, field, self._text(name))
        msh.msh_7 = _timestamp(self._reading.read_at)
        msh.msh_9 = self._components("ORU", "R01", "ORU_R01")
        msh.msh_10 = self._text(control_id)
        msh.msh_11 = self._text(processing_id)
        msh.msh_18 = "UNICODE UTF-8"
        msh.msh_21 = self._components("AI-ALERT", "WETREAD")

    def _patient(self, group: Group, patient: PatientIdentity) -> None:
        pid = group.add_segment("PID")
        received = self._order.first("PID") if self._order else None
        if received:
            pid.pid_1 = self._echo(received.text.split(self._delimiters.field, 1)[-1])
        else:
            pid.pid_1 = "1"
            pid.pid_3 = self._echo(self._delimiters.repetition.join(self._identifier(i) for i in patient.identifiers))
            pid.pid_5 = self._components(patient.family, patient.given)
            pid.pid_7 = self._text(patient.birth_date.replace("-", ""))
            pid.pid_8 = self._text(patient.sex)
        visit = self._order.first("PV1") if self._order else None
        if visit and any(visit.raw(number) for number in (2, 3, 19)):
            pv1 = group.add_group("ORU_R01_VISIT").add_segment("PV1")
            for number in (2, 3, 19):
                self._echo_field(pv1, visit, number)

    def _identifier(self, identifier: PatientIdentifier) -> str:
        """CX with its assigning authority as HD (2.5.1 2.A.14, 2.A.33)."""
        authority = identifier.authority
        if authority.startswith(_LOCAL_AUTHORITY):
            assigned = self._text(authority.removeprefix(_LOCAL_AUTHORITY))
        elif authority.startswith("urn:oid:"):
            assigned = self._delimiters.subcomponent.join(("", self._text(authority.removeprefix("urn:oid:")), "ISO"))
        elif authority:
            assigned = self._delimiters.subcomponent.join(("", self._text(authority), "URI"))
        else:
            assigned = ""
        joined = self._delimiters.component.join((self._text(identifier.value), "", "", assigned))
        return joined.rstrip(self._delimiters.component)

    def _request(self, group: Group) -> None:
        """ORC, OBR, the caveats as NTE, and TQ1: a preliminary result (table 0123 P) of an order in process."""
        order = self._group.first("ORC") if self._group else None
        request = self._group.first("OBR") if self._group else None
        context, reading = self._context, self._reading

        orc = group.add_segment("ORC")
        orc.orc_1, orc.orc_5 = "RE", "IP"
        obr = group.add_segment("OBR")
        obr.obr_1 = "1"
        for number in (2, 3):
            source = next((s for s in (order, request) if s and s.raw(number)), None)
            if source:
                self._echo_field(orc, source, number)
                self._echo_field(obr, source, number)
        if order:
            self._echo_field(orc, order, 12)
        for number in (4, 16, 18, 19, 20, 24, 31):
            if request:
                self._echo_field(obr, request, number)
        if not (request and request.raw(4)):
            obr.obr_4 = self._coded(context.procedure or vocabulary.IMAGING_STUDY)
        if context.accession and not (request and request.raw(18)):
            obr.obr_18 = self._text(context.accession.value)
        if context.started:
            obr.obr_7 = _timestamp(context.started)
        obr.obr_22 = _timestamp(reading.read_at)
        if not (request and request.raw(24)):
            obr.obr_24 = "RAD"
        obr.obr_25 = "P"
        obr.obr_44 = self._echo(request.raw(4)) if request and request.raw(4) else self._coded(
            context.procedure or vocabulary.IMAGING_STUDY
        )  # fmt: skip
        intended_use = [f"Intended use: {reading.model.intended_use}"] if reading.model.intended_use else []
        remarks = [f"Read by {model_label(reading.model)}.", *caveats(reading, demo=context.demo), *intended_use]
        for number, remark in enumerate(remarks, 1):
            nte = group.add_segment("NTE")
            nte.nte_1, nte.nte_3 = str(number), self._text(remark)
        tq1 = group.add_group("ORU_R01_TIMING_QTY").add_segment("TQ1")
        tq1.tq1_1, tq1.tq1_9 = "1", "S"

    def _findings(self, group: Group) -> None:
        """Each finding's OBX share an OBX-4; the first of them names it, with AA where it is critical (table 0078)."""
        for number, finding in enumerate((f for f in self._reading.findings if f.present), 1):
            self._finding(group, finding, str(number))

    def _finding(self, group: Group, finding: Finding, sub_id: str) -> None:
        named = self._observation(group, "CWE", self._section(), self._coded(finding.code), sub_id)
        if finding.critical:
            named.obx_8 = "AA"
        site = body_site(finding, self._context)
        if site:
            self._observation(group, "CWE", self._coded(_FINDING_SITE), self._coded(site), sub_id)
        if finding.laterality:
            self._observation(group, "CWE", self._coded(vocabulary.LATERALITY), self._coded(finding.laterality), sub_id)
        if finding.probability is not None:
            name = self._coded(vocabulary.CERTAINTY)
            certainty = self._observation(group, "NM", name, f"{finding.probability:f}", sub_id)
            certainty.obx_6 = self._components("1", "no units", "UCUM")
            if finding.threshold is not None:
                certainty.obx_7 = f"<{finding.threshold:f}"
        for measurement in finding.measurements:
            self._measurement(group, measurement, sub_id)

    def _measurement(self, group: Group, measurement: Measurement, sub_id: str) -> None:
        obx = self._observation(group, "NM", self._coded(measurement.code), f"{measurement.value:f}", sub_id)
        obx.obx_6 = self._components(measurement.unit, measurement.unit_display, "UCUM")

    def _pointers(self, group: Group, link: str) -> None:
        """The Study Instance UID, and a link to the study (RP, 2.5.1 2.A.65)."""
        study = self._coded(vocabulary.STUDY_INSTANCE_UID)
        self._observation(group, "ST", study, self._text(self._reading.study_instance_uid))
        pointer = self._components(link, "WETREAD", "TEXT", "HTML")
        self._observation(group, "RP", self._coded(vocabulary.IMAGING_STUDY), pointer)

    def _observation(self, group: Group, value_type: str, name: str, value: str, sub_id: str = "") -> Segment:
        self._observations += 1
        model, context = self._reading.model, self._context
        obx = group.add_group("ORU_R01_OBSERVATION").add_segment("OBX")
        obx.obx_1 = str(self._observations)
        obx.obx_2 = value_type
        obx.obx_3 = name
        if sub_id:
            obx.obx_4 = sub_id
        obx.obx_5 = self._echo(value)
        obx.obx_11 = "P"
        if context.started:
            obx.obx_14 = _timestamp(context.started)
        obx.obx_17 = self._components(model_name(model), model_label(model), "L")
        obx.obx_18 = self._components(context.device_id, "WETREAD")
        obx.obx_19 = _timestamp(self._reading.read_at)
        if context.organization:
            obx.obx_23 = self._text(context.organization)
        return obx

    def _section(self) -> str:
        return self._delimiters.component.join(
            (self._coded(vocabulary.PROCEDURE_FINDINGS), self._coded(vocabulary.AI_READING))
        )

    def _coded(self, coded: Coded) -> str:
        try:
            system = coded.hl7_system
        except KeyError:
            system = "L"  # Table 0396: local general code
        return self._components(coded.code, coded.display, system)

    def _components(self, *texts: str) -> str:
        return self._delimiters.component.join(map(self._text, texts))

    def _text(self, text: str) -> str:
        """On one line: an escaped line break is not safe through hl7apy, and ST has none (2.5.1 2.A.74)."""
        return hl7.escape(" ".join(plain(text).split()), self._delimiters)

    def _echo_field(self, target: Segment, source: hl7.Segment, number: int) -> None:
        if source.raw(number):
            setattr(target, f"{target.name}_{number}".lower(), self._echo(source.raw(number)))

    def _echo(self, raw: str) -> str:
        self._echoes.append(raw)
        return f"{_ECHO_MARK}{len(self._echoes) - 1}{_ECHO_MARK}"


def _group_of(order: hl7.Message, context: ReadingContext) -> hl7.OrderGroup:
    """The order group of the study's accession number (OBR-18, IPC-1), or the first: a message may carry several."""
    groups = hl7.order_groups(order)
    wanted = context.accession.value if context.accession else None
    for group in groups:
        told = [s.value(field) for name, field in (("OBR", 18), ("IPC", 1)) for s in group.all(name)]
        if wanted and wanted in told:
            return group
    return groups[0] if groups else hl7.OrderGroup(order.all("ORC")[:1] + order.all("OBR")[:1])


def _timestamp(at: datetime) -> str:
    """DTM in UTC with its offset (2.5.1 2.A.22)."""
    return at.astimezone(UTC).strftime("%Y%m%d%H%M%S+0000")
