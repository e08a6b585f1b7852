"""What an audit record says, before it has a form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from wetread.domain.reader import Reader
from wetread.record.audit.kinds import KINDS

_OUTCOMES = ("0", "4", "8", "12")
_ACTIONS = ("C", "R", "U", "D", "E")


@dataclass(frozen=True, slots=True)
class Entity:
    """What was acted on. `what` is a reference (`ImagingStudy/..`), `identifier` a Study UID or the like.

    `type_code` is of audit-entity-type (1 person, 2 system object), `role_code` of object-role (3 report, 4 domain
    resource, 20 job, 24 query). `query` holds a request as it came, byte for byte.
    """

    what: str = ""
    identifier: str = ""
    type_code: str = "2"
    role_code: str = "4"
    description: str = ""
    query: bytes = b""
    detail: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One thing done. `kind` is one of `audit_kinds.KINDS`; `action` C, R, U, D or E; `outcome` 0 success, 4 minor,
    8 serious, 12 major failure. `principal` is who asked or what acted (a reference, or a name); `user` the person
    behind it, where known; `network` an address, host or URL. Where an access token was used, `client_id` is the
    client's that it was given to, `token_id` its jti and `roles` what it says of the person. Raises ValueError on a
    kind nobody has documented.
    """

    kind: str
    action: str
    outcome: str
    principal: str
    network: str = ""
    patient_id: str | None = None
    entities: tuple[Entity, ...] = ()
    detail: Mapping[str, str] = field(default_factory=dict)
    request_id: str = ""
    outcome_text: str = ""
    governance_only: bool = False
    user: str = ""
    client_id: str = ""
    token_id: str = ""
    roles: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"{self.kind!r} is no kind of audit event; add it to record/audit/kinds and docs/audit.md")
        if self.outcome not in _OUTCOMES or self.action not in _ACTIONS:
            raise ValueError(f"audit {self.kind}: action {self.action!r} or outcome {self.outcome!r} is not of FHIR")


@dataclass(frozen=True, slots=True)
class Asker:
    """Who stands behind a request, in the words of AuditEntry."""

    principal: str = "anonymous"
    user: str = ""
    client_id: str = ""
    token_id: str = ""
    roles: tuple[str, ...] = ()

    @classmethod
    def of(cls, reader: Reader | None) -> Asker:
        """The app that asks and the person behind it; one of the two where there is no other."""
        if reader is None:
            return cls()
        client, token, roles = reader.client_id or "", reader.token_id or "", tuple(sorted(reader.roles))
        if client and client != reader.principal:
            return cls(client, reader.principal, client, token, roles)
        return cls(reader.principal, "", client, token, roles)

    def said_of(self, entry: AuditEntry) -> AuditEntry:
        """The entry with the asker in it."""
        return replace(
            entry,
            principal=self.principal,
            user=self.user,
            client_id=self.client_id,
            token_id=self.token_id,
            roles=self.roles,
        )
