"""HL7v2 intake: from bytes on a wire to a stored message and its answer, with no FHIR write in between.

Decode, split, check version, trigger, required segments and fields and ORC-1; commit raw bytes and verdict; answer.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from wetread.domain.keys import control_id
from wetread.errors import WetreadError
from wetread.mapping.identify import identify
from wetread.mapping.orders import ADT_EVENTS, ORDER_EVENTS
from wetread.mapping.site import Site
from wetread.reading import inbox
from wetread.record.audit import audit
from wetread.store.database import Database
from wetread.wire import hl7, hl7_ack
from wetread.wire.mllp import Oversize, Truncated

KEPT_OF_OVERSIZE = 64 * 1024
ANYBODY = audit.Asker("hl7v2")
"""The sender that nothing but its own words names."""
_LARGE = 1024 * 1024
"""Judging takes a few ms per MB: beyond this it leaves the event loop."""


def accepted(processing_ids: Iterable[str]) -> hl7_ack.Accepted:
    """What this server takes: exactly the events that it can map."""
    triggers = frozenset(f"{code}^{trigger}" for code, trigger in ORDER_EVENTS | ADT_EVENTS)
    return hl7_ack.Accepted(triggers=triggers, processing_ids=frozenset(processing_ids))


@dataclass(frozen=True)
class Intake:
    """The door for HL7v2 messages, whatever wire they come by."""

    database: Database
    site: Site
    accepted: hl7_ack.Accepted
    default_charset: str | None
    oversize_quota_bytes: int

    async def receive(
        self, raw: bytes, *, peer: str, listener: str, at: datetime, sender: audit.Asker = ANYBODY
    ) -> bytes:
        """The answer to a message, after it is committed. `sender` is who proved to be it, where somebody did.

        A duplicate of an accepted one gets its stored answer; one of a refused message is judged afresh. Raises
        Unreachable where it cannot be stored: then nothing may be answered.
        """
        digest = hashlib.sha256(raw).digest()
        large = len(raw) > _LARGE
        message, verdict, lanes = await asyncio.to_thread(self._judge, raw) if large else self._judge(raw)
        said = (message.sending_application, message.sending_facility) if message else ("", "")
        control = message.control_id if message else hl7_ack.recover_control_id(raw)
        own_control_id = control_id("ack", *said, control, digest.hex(), at.isoformat())
        answer = hl7_ack.acknowledge(raw, message, verdict, control_id=own_control_id, at=at)
        new = inbox.NewMessage(
            peer=peer,
            listener=listener,
            sending_application=said[0],
            sending_facility=said[1],
            control_id=control,
            message_type=f"{message.message_code}^{message.trigger_event}" if message else "",
            version=message.version if message else "",
            digest=digest,
            size_bytes=len(raw),
            raw=raw,
            verdict=verdict.code,
            answer=answer,
            lanes=lanes,
            error=_explained(verdict),
        )
        async with self.database.transaction() as conn:
            # What was accepted once stays accepted, even where the settings would refuse it by now.
            known = None if verdict.code == "AA" else await inbox.stored_answer(conn, *said, control, digest)
            kept = None if known else await inbox.keep(conn, new)
            if kept is None:
                return known or await inbox.stored_answer(conn, *said, control, digest) or answer
            await audit.write(conn, _audit(verdict, peer, control, kept, sender))
        return answer

    async def refuse_oversize(
        self, oversize: Oversize, *, peer: str, listener: str, at: datetime, sender: audit.Asker = ANYBODY
    ) -> bytes:
        """The AR to a message beyond the limit. Its first 64 kB and its digest are kept, within the sender's quota."""
        fault = hl7_ack.Fault("MSH", 1, None, None, "207", "The message is larger than this server takes.", "E")
        verdict = hl7_ack.Verdict("AR", (fault,))
        control = hl7_ack.recover_control_id(oversize.head)
        own_control_id = control_id("ack", control, oversize.sha256, at.isoformat())
        answer = hl7_ack.acknowledge(oversize.head, None, verdict, control_id=own_control_id, at=at)
        await self._keep_head(oversize, verdict, answer, control, fault.text, peer, listener, sender)
        return answer

    async def keep_truncated(
        self, truncated: Truncated, *, peer: str, listener: str, sender: audit.Asker = ANYBODY
    ) -> None:
        """Keeps the first 64 kB of a message whose frame broke off, within the sender's quota: to be seen, no more.
        Nobody waits for an answer; the sender has none, so it sends the message again."""
        control = hl7_ack.recover_control_id(truncated.head)
        said = f"the frame broke off after {truncated.size} bytes; nothing was answered"
        await self._keep_head(truncated, hl7_ack.Verdict("AR", ()), b"", control, said, peer, listener, sender)

    async def _keep_head(
        self,
        part: Oversize | Truncated,
        verdict: hl7_ack.Verdict,
        answer: bytes,
        control: str,
        error: str,
        peer: str,
        listener: str,
        sender: audit.Asker,
    ) -> None:
        host = peer.rsplit(":", 1)[0]
        digest = bytes.fromhex(part.sha256) if isinstance(part, Oversize) else hashlib.sha256(part.head).digest()
        async with self.database.transaction() as conn:
            used = await inbox.kept_bytes_today(conn, host)
            kept = await inbox.keep(
                conn,
                inbox.NewMessage(
                    peer=peer,
                    listener=listener,
                    sending_application="",
                    sending_facility="",
                    control_id=control,
                    message_type="",
                    version="",
                    digest=digest,
                    size_bytes=part.size,
                    raw=part.head[:KEPT_OF_OVERSIZE] if used < self.oversize_quota_bytes else b"",
                    verdict=verdict.code,
                    answer=answer,
                    lanes=(),
                    error=error,
                ),
            )
            await audit.write(conn, _audit(verdict, peer, control, kept or 0, sender))

    def _judge(self, raw: bytes) -> tuple[hl7.Message | None, hl7_ack.Verdict, tuple[str, ...]]:
        message: hl7.Message | None = None
        try:
            message = hl7.parse(raw, default_charset=self.default_charset)
            verdict = hl7_ack.judge(message, self.accepted)
            lanes = identify(message, self.site).lanes if verdict.code == "AA" else ()
        except WetreadError as error:
            return message, hl7_ack.refusal(error), ()
        return message, verdict, lanes


def _explained(verdict: hl7_ack.Verdict) -> str | None:
    if verdict.code == "AA":
        return None
    return "; ".join(
        f"{f.segment}-{f.field}: {f.text}" if f.field else f"{f.segment}: {f.text}" for f in verdict.faults
    )


def _audit(verdict: hl7_ack.Verdict, peer: str, control: str, number: int, sender: audit.Asker) -> audit.AuditEntry:
    taken = verdict.code == "AA"
    entry = audit.AuditEntry(
        kind="message-received" if taken else "message-refused",
        action="C",
        outcome="0" if taken else "4",
        principal="",
        network=peer.rsplit(":", 1)[0],
        entities=(audit.Entity(identifier=control or "unknown", type_code="4", role_code="3"),),
        detail={"message": str(number), "answer": verdict.code},
    )
    return sender.said_of(entry)
