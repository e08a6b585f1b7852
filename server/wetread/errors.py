"""The error tree. A face renders a leaf in its own protocol's form without an `if`.

WetreadError
├── Refused                 permanent: the same input will be refused again
│   ├── InvalidInput        400  content that breaks a rule of its standard
│   ├── Unsupported         422  well formed, but not something this server does
│   ├── Inapplicable        422  well formed, but it does not fit the thing as it is: a patch
│   ├── TooCostly           422  the answer would be too large; says how to ask for less
│   ├── NotFound            404
│   ├── MethodNotAllowed    405
│   ├── NotAcceptable       406  no form of the answer that the caller takes
│   ├── Gone                410
│   ├── Conflict            409  the state of the thing forbids it
│   ├── PreconditionFailed  412  If-Match, If-None-Exist
│   ├── Unauthorized        401
│   ├── Forbidden           403
│   ├── TooLarge            413
│   ├── UnsupportedMedia    415  a body in a form that this face does not read
│   └── Misconfigured       500  a setting or a site's file is wrong; says which key
└── Unreachable             passing: the same input may succeed later
    ├── StoreUnavailable    503  the database or the blob store does not answer
    │   └── Contended       503  others change the same things at this moment
    ├── OutOfSpace          507  the disk is full
    └── PeerUnavailable     502  a destination does not answer
"""

from __future__ import annotations

from typing import ClassVar


class WetreadError(Exception):
    """A failure that a peer may be told about: `message` holds no patient data and says what to do.

    `code` is stable and documented; `http_status`, `fhir_issue` (FHIR R4 valueset-issue-type), `hl7_error`
    (HL7 table 0357) and `dimse_status` (PS3.7 annex C, PS3.4 B.2.3) are what the faces send.
    """

    code: ClassVar[str] = "internal"
    http_status: ClassVar[int] = 500
    fhir_issue: ClassVar[str] = "exception"
    hl7_error: ClassVar[str] = "207"
    dimse_status: ClassVar[int] = 0x0110

    def __init__(self, message: str, *, location: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.location = location
        """Where in the input: a FHIRPath, `PID^1^3`, or a DICOM keyword."""


class Refused(WetreadError):
    code = "refused"
    http_status = 400
    fhir_issue = "processing"
    dimse_status = 0xC000


class InvalidInput(Refused):
    code = "invalid"
    fhir_issue = "invalid"
    hl7_error = "102"
    dimse_status = 0xC000


class Unsupported(Refused):
    code = "not-supported"
    http_status = 422
    fhir_issue = "not-supported"
    hl7_error = "200"
    dimse_status = 0x0122


class Inapplicable(Refused):
    code = "inapplicable"
    http_status = 422


class TooCostly(Refused):
    code = "too-costly"
    http_status = 422
    fhir_issue = "too-costly"


class NotFound(Refused):
    code = "not-found"
    http_status = 404
    fhir_issue = "not-found"
    hl7_error = "204"
    dimse_status = 0x0112


class MethodNotAllowed(Refused):
    code = "method-not-allowed"
    http_status = 405
    fhir_issue = "not-supported"
    hl7_error = "200"
    dimse_status = 0x0122


class NotAcceptable(Refused):
    code = "not-acceptable"
    http_status = 406
    fhir_issue = "not-supported"


class Gone(Refused):
    code = "gone"
    http_status = 410
    fhir_issue = "deleted"
    hl7_error = "204"
    dimse_status = 0x0112


class Conflict(Refused):
    code = "conflict"
    http_status = 409
    fhir_issue = "conflict"
    hl7_error = "205"
    dimse_status = 0x0111


class PreconditionFailed(Refused):
    code = "precondition-failed"
    http_status = 412
    fhir_issue = "conflict"
    hl7_error = "205"


class Unauthorized(Refused):
    code = "unauthorized"
    http_status = 401
    fhir_issue = "login"
    dimse_status = 0x0124


class Forbidden(Refused):
    code = "forbidden"
    http_status = 403
    fhir_issue = "forbidden"
    dimse_status = 0x0124


class TooLarge(Refused):
    code = "too-large"
    http_status = 413
    fhir_issue = "too-long"
    dimse_status = 0xA700


class UnsupportedMedia(Refused):
    code = "unsupported-media"
    http_status = 415
    fhir_issue = "not-supported"


class Misconfigured(Refused):
    code = "misconfigured"
    http_status = 500


class Unreachable(WetreadError):
    code = "unreachable"
    http_status = 503
    fhir_issue = "transient"
    dimse_status = 0xA700


class StoreUnavailable(Unreachable):
    code = "store-unavailable"


class Contended(StoreUnavailable):
    code = "contended"
    fhir_issue = "lock-error"


class OutOfSpace(Unreachable):
    code = "out-of-space"
    http_status = 507
    fhir_issue = "no-store"


class PeerUnavailable(Unreachable):
    code = "peer-unavailable"
    http_status = 502
