"""What the audit record says of notifications: that they went out, of whom they told, and what did not go."""

from __future__ import annotations

from collections.abc import Sequence

from wetread.record.audit.audit import AuditEntry, Entity
from wetread.record.subscriptions.delivery import Delivery
from wetread.record.subscriptions.notifications import NotifiedEvent
from wetread.record.subscriptions.rows import State


def of_slice(state: State, sent: Sequence[Delivery], dropped: Sequence[NotifiedEvent]) -> list[AuditEntry]:
    """One entry for what was sent, one for each patient of whom that told, one for each event that was dropped."""
    entries = [_sent(state, sent)] if sent else []
    entries += [_disclosure(state, sent, patient_id) for patient_id in sorted({p for d in sent for p in d.patient_ids})]
    return entries + [_dropped(state, event) for event in dropped]


def _sent(state: State, sent: Sequence[Delivery]) -> AuditEntry:
    numbers = [event.number for delivery in sent for event in delivery.events]
    return AuditEntry(
        kind="notification-sent",
        action="E",
        outcome="0",
        principal=sent[0].principal,
        network=sent[0].channel.endpoint,
        entities=(_subscription(state),),
        detail={"event-number": _range(numbers) if numbers else sent[0].kind},
    )


def _disclosure(state: State, sent: Sequence[Delivery], patient_id: str) -> AuditEntry:
    events = [event for delivery in sent if patient_id in delivery.patient_ids for event in delivery.events]
    return AuditEntry(
        kind="disclosure",
        action="R",
        outcome="0",
        principal=sent[0].principal,
        network=sent[0].channel.endpoint,
        patient_id=patient_id,
        entities=(
            *(Entity(what=focus) for focus in dict.fromkeys(event.focus for event in events)),
            _subscription(state),
        ),
        detail={"event-number": _range([event.number for event in events])},
    )


def _dropped(state: State, event: NotifiedEvent) -> AuditEntry:
    return AuditEntry(
        kind="access-denied",
        action="R",
        outcome="4",
        outcome_text="the subscription's owner may no longer read this; the notification was dropped",
        principal=state.owner["principal"],
        entities=(Entity(what=f"Subscription/{state.id}", role_code="9"), Entity(what=event.focus)),
    )


def given_up(state: State, error: str) -> AuditEntry:
    """That the subscription is in error now, and its client must ask again."""
    return AuditEntry(
        kind="delivery-failed",
        action="E",
        outcome="8",
        outcome_text=error,
        principal=state.owner["principal"],
        network=state.channel["endpoint"],
        entities=(_subscription(state),),
    )


def _range(numbers: Sequence[int]) -> str:
    first, last = numbers[0], numbers[-1]
    return str(first) if first == last else f"{first}-{last}"


def _subscription(state: State) -> Entity:
    return Entity(what=f"Subscription/{state.id}", type_code="2", role_code="9")
