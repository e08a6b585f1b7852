"""The ways out for notifications, as the operator has set them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from wetread.access.owners import reader_now
from wetread.domain.endpoint import AllowedEndpoints
from wetread.mapping.messages import datatypes
from wetread.mapping.messages.load import load
from wetread.mapping.model import Maps
from wetread.mapping.site import Site
from wetread.outbound.email_channel import EmailChannel, Relay
from wetread.outbound.endpoints import Endpoint, EndpointPoster, Endpoints
from wetread.outbound.http import HttpPoster
from wetread.outbound.message_channel import MessageChannel
from wetread.outbound.mllp_channel import Messages, MllpChannel
from wetread.outbound.nats_channel import Broker, NatsChannel
from wetread.outbound.rest_hook import RestHook
from wetread.outbound.sender import Sender
from wetread.record.subscriptions.channel import EMAIL, MESSAGE, MLLP, NATS, REST_HOOK
from wetread.settings import Settings
from wetread.settings.sending import Mail, Nats, PeerTls
from wetread.store.database import Database
from wetread.wire.fetch import trusted_contexts
from wetread.wire.lookups import Lookups
from wetread.wire.post import Post
from wetread.wire.tls import ClientTls, Contexts, client_contexts

_KEPT_S = 30.0


def hl7_messages(settings: Settings, shipped: Path, maps: Maps, site: Site) -> Messages:
    """How resources become messages. Raises Misconfigured for a site's map that is wrong."""
    return Messages(
        load(shipped, settings.overlay_dir),
        datatypes.names(site.authorities, maps.codes["coding-system"].codes),
        (settings.site.application, settings.site.facility),
        settings.site.processing_id,
        settings.fhir_base,
    )


def carried(settings: Settings, messages: Messages) -> Mapping[str, frozenset[str]]:
    """The resource types of the channels that do not carry all: none of what the operator has not set up."""
    optional = {EMAIL: settings.outbound.mail, NATS: settings.outbound.nats}
    return {MLLP: frozenset(messages.forms)} | {kind: frozenset() for kind, set_up in optional.items() if not set_up}


class Ways:
    """A sender for each kind of channel, and the connections that they keep. Close it when done."""

    def __init__(self, settings: Settings, database: Database, messages: Messages) -> None:
        outbound = settings.outbound
        self._allowed = AllowedEndpoints.parse(outbound.allow, plain=outbound.plain)
        self._lookups = Lookups()
        self._posts: list[Post] = []
        usual = trusted_contexts(outbound.authority, outbound.minimum_version)
        endpoints = Endpoints(
            [Endpoint(e.url, e.key, _contexts(e.tls) if e.tls is not None else None) for e in outbound.endpoints]
        )
        poster = EndpointPoster(self._over(usual), endpoints, self._over, lambda: datetime.now(UTC))
        self._mllp = MllpChannel(database, reader_now, messages, self._allowed, usual, endpoints, self._lookups)
        self._mail = EmailChannel(_relay(outbound.mail), settings.fhir_base) if outbound.mail is not None else None
        self._nats = NatsChannel(_broker(outbound.nats), settings.fhir_base) if outbound.nats is not None else None
        self.senders: Mapping[str, Sender] = {
            REST_HOOK: RestHook(poster, settings.fhir_base),
            MESSAGE: MessageChannel(poster, settings.fhir_base),
            MLLP: self._mllp,
            **({EMAIL: self._mail} if self._mail is not None else {}),
            **({NATS: self._nats} if self._nats is not None else {}),
        }

    async def close(self) -> None:
        await self._mllp.close()
        if self._mail is not None:
            self._mail.close()
        if self._nats is not None:
            await self._nats.close()
        for post in self._posts:
            await post.close()
        self._lookups.close()

    def _over(self, tls: Contexts) -> HttpPoster:
        self._posts.append(Post(self._allowed, tls, self._lookups, kept_s=_KEPT_S))
        return HttpPoster(self._posts[-1])


def _relay(mail: Mail) -> Relay:
    return Relay(
        mail.host,
        mail.port,
        mail.sender,
        mail.security,
        mail.recipients,
        client_contexts(ClientTls(mail.authority, minimum="1.2")),
        mail.username,
        mail.password.get_secret_value(),
    )


def _broker(nats: Nats) -> Broker:
    is_tls = nats.tls is not None or any(server.startswith("tls:") for server in nats.servers)
    return Broker(nats.servers, nats.subjects, _contexts(nats.tls or PeerTls()) if is_tls else None, nats.credentials)


def _contexts(tls: PeerTls) -> Contexts:
    return client_contexts(ClientTls(tls.authority, tls.certificate, tls.key, tls.minimum_version))
