"""Nobody waits for another's long body: it is read and written beside the event loop."""

from __future__ import annotations

import base64
import json
import threading
from typing import Any

import httpx
import pytest

from wetread.record import lossless, xml_form

LONG = 100_000
BINARY = {
    "resourceType": "Binary",
    "id": "b",
    "contentType": "application/x",
    "data": base64.b64encode(b"x" * LONG).decode(),
}
PATCH = [
    {"op": "replace", "path": "/contentType", "value": "application/y"},
    {"op": "add", "path": "/meta/tag", "value": [{"display": "x" * LONG}]},
]


@pytest.fixture
def in_the_way(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was done with long texts in the thread of the event loop."""
    found: list[str] = []

    def watch(module: Any, name: str) -> None:
        done = getattr(module, name)

        def watched(value: Any, *args: Any, **more: Any) -> Any:
            if threading.current_thread() is threading.main_thread():
                text = value if isinstance(value, str) else json.dumps(value, default=str)
                if len(text) > LONG:
                    found.append(name)
            return done(value, *args, **more)

        monkeypatch.setattr(module, name, watched)

    for name in ("parse_value", "pretty", "dump", "canonical"):
        watch(lossless, name)
    for name in ("to_xml", "to_json"):
        watch(xml_form, name)
    return found


async def test_a_long_resource_stands_in_nobodys_way(fhir_client: httpx.AsyncClient, in_the_way: list[str]) -> None:
    written = await fhir_client.put("Binary/b", json=BINARY)
    assert written.status_code == 201
    for url in (
        "Binary/b?_pretty=true",
        "Binary/b?_summary=true",
        "Binary/b?_format=xml",
        "Binary/b/_history/1",
        "Binary?_elements=contentType",
        "Binary?_sort=_lastUpdated&_pretty=true",
        "Binary/_history?_summary=true",
    ):
        assert (await fhir_client.get(url)).status_code == 200, url
    patched = await fhir_client.patch(
        "Binary/b", content=json.dumps(PATCH), headers={"Content-Type": "application/json-patch+json"}
    )
    assert patched.status_code == 200, patched.text
    assert (await fhir_client.put("Binary/b", json=BINARY)).status_code == 200
    assert in_the_way == []
