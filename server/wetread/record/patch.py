"""JSON Patch of a resource (RFC 6902, FHIR R4 3.1.0.9.1), on losslessly parsed content: decimals keep digits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import jsonpatch
import jsonpointer

from wetread.errors import Inapplicable, InvalidInput, TooLarge
from wetread.record import lossless
from wetread.record.validation import validate

MEDIA_TYPE = "application/json-patch+json"
MOST_OPERATIONS = 1000
_MOST_COPIED_CHARACTERS = 16 * 1024 * 1024
_NEEDS = {"add": "value", "replace": "value", "test": "value", "move": "from", "copy": "from", "remove": ""}


def parsed(text: str) -> list[dict[str, Any]]:
    """The operations of a patch document. Raises InvalidInput where it is none, TooLarge where there are too many."""
    operations = lossless.parse_value(text)
    if not isinstance(operations, list):
        raise InvalidInput("a JSON Patch is an array of operations")
    if len(operations) > MOST_OPERATIONS:
        raise TooLarge(f"a patch has at most {MOST_OPERATIONS} operations here")
    for number, operation in enumerate(operations):
        _require_operation(operation, f"[{number}]")
    return operations


def _require_operation(operation: Any, where: str) -> None:
    kind = operation.get("op") if isinstance(operation, dict) else None
    if not isinstance(kind, str) or kind not in _NEEDS:
        raise InvalidInput("op is add, remove, replace, move, copy or test", location=f"{where}.op")
    pointers = ["path"] if _NEEDS[kind] != "from" else ["path", "from"]
    for name in pointers:
        try:
            jsonpointer.JsonPointer(operation[name])
        except (KeyError, TypeError, AttributeError, jsonpointer.JsonPointerException) as error:
            raise InvalidInput("a JSON Pointer is expected (RFC 6901)", location=f"{where}.{name}") from error
    if _NEEDS[kind] == "value" and "value" not in operation:
        raise InvalidInput(f"{kind} needs a value", location=f"{where}.value")


def applied(content: dict[str, Any], operations: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The content with every operation done; `content` itself may be changed.

    Raises Inapplicable where a path or a `test` does not hold, TooLarge where copies of copies grow beyond measure.
    """
    result: Any = content
    copied = 0
    for number, operation in enumerate(operations):
        try:
            if operation["op"] == "copy":
                copied += len(lossless.dump(jsonpointer.resolve_pointer(result, operation["from"])))
            if copied > _MOST_COPIED_CHARACTERS:
                raise TooLarge("the patch copies more than a resource may hold", location=f"[{number}]")
            result = jsonpatch.JsonPatch([operation]).apply(result, in_place=True)
        except jsonpatch.JsonPatchTestFailed as error:
            raise Inapplicable("a test of the patch does not hold", location=f"[{number}].value") from error
        except (jsonpatch.JsonPatchException, jsonpointer.JsonPointerException) as error:
            raise Inapplicable("the resource has no such place", location=f"[{number}].path") from error
        except (TypeError, KeyError, IndexError, ValueError, AttributeError) as error:
            raise Inapplicable("the operation does not fit what stands there", location=f"[{number}].path") from error
    if not isinstance(result, dict):
        raise Inapplicable("the patch leaves no resource", location="[0].path")
    return result


def change(operations: Sequence[dict[str, Any]]) -> Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]:
    """For `resources.patch`: does the operations, and finds the outcome valid.

    Raises InvalidInput for content that is not, or that is another resource than before.
    """

    async def changed(content: dict[str, Any]) -> dict[str, Any]:
        identity = content["resourceType"], content["id"]
        after = await asyncio.to_thread(applied, content, operations)
        if (after.get("resourceType"), after.get("id")) != identity:
            where = f"{identity[0]}.id"
            raise InvalidInput("a patch changes neither the type nor the id of a resource", location=where)
        return await validate.parsed(await asyncio.to_thread(lossless.dump, after))

    return changed
