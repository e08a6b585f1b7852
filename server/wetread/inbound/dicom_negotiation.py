"""What an association is granted (PS3.8 9.3, PS3.4 B.3): to whom, for which SOP classes and transfer syntaxes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydicom.uid import UID, AllTransferSyntaxes, ImplicitVRLittleEndian
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.service_class import StorageServiceClass
from pynetdicom.sop_class import register_uid, uid_to_service_class

from wetread.domain import networks

VERIFICATION = "1.2.840.10008.1.1"
MODALITY_PERFORMED_PROCEDURE_STEP = "1.2.840.10008.3.1.2.3.3"
TRANSFER_SYNTAXES = frozenset(
    {*(str(uid) for uid in AllTransferSyntaxes), *(f"1.2.840.10008.1.2.4.{retired}" for retired in range(52, 67))}
)
"""All of PS3.5 10, and the retired JPEG processes that old archives still send. Stored as received, not decoded."""


@dataclass(frozen=True, slots=True)
class AllowedPeer:
    """A sender that is let in: from this network, under this AE title; None admits any."""

    network: networks.Network | None = None
    ae_title: str | None = None

    def admits(self, address: str, ae_title: str) -> bool:
        """Whether a caller at `address` (IPv4 or IPv6) that calls itself `ae_title` is this peer."""
        if self.ae_title is not None and self.ae_title != ae_title:
            return False
        return self.network is None or networks.within(networks.address(address), (self.network,))


def is_admitted(allow: Sequence[AllowedPeer], address: str, ae_title: str) -> bool:
    """An empty allow-list admits everybody."""
    return not allow or any(peer.admits(address, ae_title) for peer in allow)


def granted(proposed: Iterable[PresentationContext]) -> list[PresentationContext]:
    """The contexts to support for what a peer proposes: Verification, performed steps, and storage of any SOP class.

    Of several transfer syntaxes in one context the first proposed that we know is taken. A storage SOP class without
    one gets a context that none of its proposals meets, so that the refusal says `transfer syntaxes not supported`.
    """
    syntaxes: dict[str, list[str]] = {}
    for context in proposed:
        abstract = str(context.abstract_syntax)
        if abstract in (VERIFICATION, MODALITY_PERFORMED_PROCEDURE_STEP) or is_storage(abstract):
            known = syntaxes.setdefault(abstract, [])
            known += [s for s in map(str, context.transfer_syntax) if s in TRANSFER_SYNTAXES and s not in known]
    return [build_context(abstract, known or [ImplicitVRLittleEndian]) for abstract, known in syntaxes.items()]


def is_storage(abstract_syntax: str) -> bool:
    """Whether a SOP class is composite storage: known as such, retired, or known to nobody (private, or newer than we).

    Registers an unknown one with pynetdicom, which otherwise has no service for it.
    """
    if uid_to_service_class(abstract_syntax) is StorageServiceClass:
        return True
    uid = UID(abstract_syntax)
    retired = abstract_syntax.startswith("1.2.840.10008.5.1.4.1.1.") and "Storage" in uid.name and uid.is_retired
    if uid.type and not retired:
        return False
    register_uid(abstract_syntax, f"storage_{abstract_syntax.replace('.', '_')}", StorageServiceClass)
    return True
