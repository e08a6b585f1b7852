"""What becomes of the audit record: signed, let go, streamed out."""

from __future__ import annotations

from datetime import timedelta

from wetread.app.keys import audit_keys
from wetread.app.rooms import House
from wetread.outbound.audit_file import FileSink
from wetread.outbound.audit_streams import Sink, Stream
from wetread.outbound.audit_syslog import SyslogSink
from wetread.record.audit.keeper import Keeper
from wetread.wire.tls import ClientTls, client_contexts


def audit_keeper(built: House) -> Keeper:
    """Who signs the audit record, and removes of it what the policy lets go. Raises Misconfigured."""
    wanted = built.settings.audit
    after = timedelta(minutes=wanted.checkpoint_minutes)
    return Keeper(
        built.database, audit_keys(built.settings), wanted.checkpoint_records, after, wanted.keep_days, wanted.archive
    )


def audit_streams(built: House) -> list[Stream]:
    """The ways on which the audit record leaves. Raises Misconfigured."""
    wanted = built.settings.audit
    sinks: list[Sink] = [FileSink(wanted.file.folder)] if wanted.file else []
    for to in wanted.syslog:
        contexts = client_contexts(ClientTls(to.tls.authority, to.tls.certificate, to.tls.key, to.tls.minimum_version))
        sinks.append(SyslogSink(to.name, to.host, to.port, contexts))
    return [Stream(built.database, sink) for sink in sinks]
