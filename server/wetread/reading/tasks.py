"""The Task that tells an EHR how its order's AI reading stands (FHIR R4 task.html#statemachine)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from wetread.domain.codes import WETREAD
from wetread.domain.reader import SYSTEM
from wetread.errors import NotFound
from wetread.mapping.times import in_order
from wetread.record import resources
from wetread.store.database import Connection

ENDED = frozenset({"completed", "cancelled", "failed", "rejected", "entered-in-error"})
READING_CODE: Mapping[str, Any] = {
    "coding": [{"system": WETREAD, "code": "ai-reading", "display": "AI reading of an imaging study"}]
}


async def existing(conn: Connection, task_id: str) -> dict[str, Any] | None:
    try:
        return (await resources.read(conn, SYSTEM, "Task", task_id)).resource()
    except NotFound:
        return None


def without_order(task_id: str, patient_id: str, imaging_study_id: str, authored_on: str) -> dict[str, Any]:
    """The Task of a study that no order asked for."""
    return {
        "resourceType": "Task",
        "id": task_id,
        "status": "accepted",
        "intent": "proposal",
        "priority": "routine",
        "code": deepcopy(dict(READING_CODE)),
        "focus": {"reference": f"ImagingStudy/{imaging_study_id}"},
        "for": {"reference": f"Patient/{patient_id}"},
        "authoredOn": authored_on,
    }


async def move(
    conn: Connection,
    task_id: str,
    status: str,
    *,
    at: str,
    reason: str = "",
    imaging_study_id: str = "",
    inputs: Sequence[tuple[str, str]] = (),
    outputs: Sequence[str] | None = None,
    reopen: bool = False,
) -> None:
    """Moves the Task where its state machine allows it; an ended one is reopened by a new study revision only.

    `inputs` are (kind, text) of routing decisions, `outputs` references of results; both replace what stood there.
    """
    task = await existing(conn, task_id)
    if task is None or (task["status"] in ENDED and not reopen and task["status"] != status):
        return
    if task["status"] in ("cancelled", "entered-in-error"):
        return
    changed = deepcopy(task)
    changed["status"] = status
    if reason:
        changed["statusReason"] = {"text": reason}
    else:
        changed.pop("statusReason", None)
    if imaging_study_id:
        changed["focus"] = {"reference": f"ImagingStudy/{imaging_study_id}"}
    if inputs:
        changed["input"] = [{"type": _kind(kind), "valueString": text} for kind, text in inputs]
    if outputs is not None:
        changed["output"] = [
            {"type": {"text": reference.split("/", 1)[0]}, "valueReference": {"reference": reference}}
            for reference in outputs
        ]
        if not outputs:
            changed.pop("output")
    if changed != task:
        # A sender whose clock is ahead wrote authoredOn; R4 wants no modification before it (inv-1).
        authored_on = task.get("authoredOn", at)
        changed["lastModified"] = at if in_order(authored_on, at) else authored_on
        await resources.put(conn, changed)


async def release(conn: Connection, task_id: str, reason: str, *, at: str) -> None:
    """Ends a hold that was laid on the Task for this reason; the order waits for its study again."""
    task = await existing(conn, task_id)
    if task is not None and task["status"] == "on-hold" and task.get("statusReason") == {"text": reason}:
        await move(conn, task_id, "requested", at=at)


def inputs_of(task: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The routing decisions that stand on a Task, as `move` takes them."""
    return [(entry["type"]["coding"][0]["code"], entry["valueString"]) for entry in task.get("input", ())]


def _kind(code: str) -> dict[str, Any]:
    return {"coding": [{"system": WETREAD, "code": code}]}
