"""Delivers what stands in the outbox: DICOM objects by C-STORE or STOW-RS, alerts by MLLP.

The send comes first, then one transaction with its outcome: a delivery that was sent but not yet settled when we died
is sent again, with the same bytes and the same MSH-10 or SOP Instance UID.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from wetread.domain.destination import Destination
from wetread.errors import Misconfigured, WetreadError
from wetread.outbound import dicom, mllp
from wetread.reading import outbox
from wetread.reading.outbox import Delivery
from wetread.record.audit import audit
from wetread.store.blobs import LocalBlobs
from wetread.store.database import Database
from wetread.wire.tls import Contexts
from wetread.work.jobs import Payload

_KIND = {"alert": "alert-sent", "sr": "instance-sent", "seg": "instance-sent", "pr": "instance-sent"}


@dataclass(frozen=True)
class Deliver:
    database: Database
    blobs: LocalBlobs
    destinations: Mapping[str, Destination]
    calling_ae: str
    tls: Mapping[str, Contexts] = field(default_factory=dict)
    """By the name of a destination that is called with TLS."""
    connections: dict[str, mllp.MllpConnection] = field(default_factory=dict)

    async def __call__(self, payload: Payload) -> None:
        """Raises what the peer answered: Refused ends in the dead letters, Unreachable holds the destination's lane."""
        async with self.database.transaction() as conn:
            delivery = await outbox.pending(conn, payload["delivery_id"])
        if delivery is None:
            return
        try:
            answer = await self._send(delivery)
        except WetreadError as error:
            async with self.database.transaction() as conn:
                await outbox.tried(conn, delivery.id, error.message)
            raise
        async with self.database.transaction() as conn:
            if await outbox.settle(conn, delivery.id, "sent", answer=answer):
                await audit.write_many(conn, self._told(delivery, "0", ""))

    async def give_up(self, payload: Payload, error: BaseException) -> None:
        """The dead letter: shown to staff, sent again only by a person."""
        reason = error.message if isinstance(error, WetreadError) else f"a fault of Wetread ({type(error).__name__})"
        async with self.database.transaction() as conn:
            delivery = await outbox.pending(conn, payload["delivery_id"])
            if delivery is not None and await outbox.settle(conn, delivery.id, "dead", error=reason):
                await audit.write_many(conn, self._told(delivery, "8", reason))

    async def close(self) -> None:
        for connection in self.connections.values():
            await connection.close()

    async def _send(self, delivery: Delivery) -> str:
        destination = self.destinations.get(delivery.destination)
        if destination is None:
            raise Misconfigured("the destination is no longer in the settings; name it again and revive the delivery")
        contents = [await asyncio.to_thread(self.blobs.get, key) for key in delivery.blob_keys]
        if destination.kind == "mllp":
            return await self._send_message(destination, contents[0])
        await asyncio.to_thread(self._send_objects, destination, contents)
        return "stored"

    async def _send_message(self, destination: Destination, message: bytes) -> str:
        connection = self.connections.setdefault(
            destination.name,
            mllp.MllpConnection(destination.host, destination.port, tls=self.tls.get(destination.name)),
        )
        ack = await connection.exchange(message, timeout_s=destination.timeout_s)
        return ack.code

    def _send_objects(self, destination: Destination, contents: list[bytes]) -> None:
        contexts = self.tls.get(destination.name)
        context = contexts() if contexts is not None else None
        if destination.kind == "stow":
            dicom.stow(contents, url=destination.url, headers={}, timeout_s=destination.timeout_s, tls=context)
        else:
            dicom.send(
                contents,
                host=destination.host,
                port=destination.port,
                called_ae=destination.ae_title,
                calling_ae=self.calling_ae,
                timeout_s=destination.timeout_s,
                tls=context,
            )

    def _told(self, delivery: Delivery, outcome: str, reason: str) -> list[audit.AuditEntry]:
        """What was done, and, where a patient's data left, their disclosure (BALP 3:5.7.1)."""
        destination = self.destinations.get(delivery.destination)
        failed = outcome != "0"
        sent = audit.AuditEntry(
            kind="delivery-failed" if failed else _KIND[delivery.about],
            action="R",
            outcome=outcome,
            outcome_text=reason,
            principal=delivery.destination,
            network=(destination.url or destination.host) if destination else "",
            patient_id=delivery.patient_id,
            entities=(audit.Entity(identifier=delivery.id, type_code="4", role_code="20"),),
            detail={
                "destination": delivery.destination,
                "what": delivery.about,
                "attempts": str(delivery.attempts + 1),
            },
        )
        return [sent] if failed or not delivery.patient_id else [sent, replace(sent, kind="disclosure")]
