"""The HTTP door for HL7v2 messages: the same intake as MLLP, the acknowledgement as the answer."""

from __future__ import annotations

from datetime import UTC, datetime

from fastapi import APIRouter, Request
from starlette.responses import Response

from wetread.api.credentials import Authenticate
from wetread.domain.reader import Reader
from wetread.errors import Forbidden, TooLarge
from wetread.reading.intake import Intake
from wetread.record.audit.audit import Asker

MEDIA_TYPE = "application/hl7-v2"
_WRITTEN = ("Encounter", "Patient", "ServiceRequest", "Task")
"""What messages change, of anybody."""


def router(intake: Intake, authenticate: Authenticate, limit_bytes: int) -> APIRouter:
    routes = APIRouter(tags=["hl7v2"])

    @routes.post("/hl7/v2")
    async def receive(request: Request) -> Response:
        """One message in the body; the answer is its ACK, 200 whatever MSA-1 says, since the message was answered."""
        reader = await authenticate(request)
        if not all(_writes_all(reader, resource_type) for resource_type in _WRITTEN):
            raise Forbidden(f"messages are taken from systems that may create and update {', '.join(_WRITTEN)}")
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit_bytes:
                raise TooLarge(f"a message holds at most {limit_bytes} bytes")
        peer = f"{request.client.host}:{request.client.port}" if request.client else "unknown"
        sender = Asker.of(reader)
        answer = await intake.receive(bytes(body), peer=peer, listener="http", at=datetime.now(UTC), sender=sender)
        return Response(answer, media_type=MEDIA_TYPE)

    return routes


def _writes_all(reader: Reader, resource_type: str) -> bool:
    return all(
        any(scope.level == "system" and not scope.constraint for scope in reader.opening(letter, resource_type))
        for letter in "cu"
    )
