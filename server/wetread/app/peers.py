"""Who results go to, and as whom."""

from __future__ import annotations

from wetread.domain.destination import Destination
from wetread.reading.report import Sender
from wetread.settings import Settings
from wetread.wire.tls import ClientTls, Contexts, client_contexts


def destinations(settings: Settings) -> tuple[Destination, ...]:
    return tuple(
        Destination(**{**d.model_dump(exclude={"tls"}), "sends": frozenset(d.sends)})
        for d in settings.outbound.destinations
    )


def peer_tls(settings: Settings) -> dict[str, Contexts]:
    """Raises Misconfigured."""
    return {
        d.name: client_contexts(ClientTls(d.tls.authority, d.tls.certificate, d.tls.key, d.tls.minimum_version))
        for d in settings.outbound.destinations
        if d.tls is not None
    }


def sender(settings: Settings) -> Sender:
    site = settings.site
    return Sender(site.application, site.facility, site.processing_id, site.name)
