"""What a kind of channel can carry: HL7 v2 messages, say, are made of some resource types only."""

from __future__ import annotations

from collections.abc import Mapping

from wetread.errors import Unsupported
from wetread.record.subscriptions.topics import Topic


def require_carried(kind: str, topic: Topic, carried: Mapping[str, frozenset[str]]) -> None:
    """`carried` holds the resource types by kind of channel: none where the operator has not set it up; a kind that is
    not in it carries all, and deletions.

    Raises Unsupported.
    """
    if kind not in carried:
        return
    where = "Subscription.channel.type"
    if not carried[kind]:
        raise Unsupported(f"this server is not set up for the channel {kind}; ask its operator", location=where)
    left_out = sorted(topic.resource_types - carried[kind])
    if left_out:
        message = f"no {kind} message is made of {', '.join(left_out)}, only of {', '.join(sorted(carried[kind]))}"
        raise Unsupported(message, location=where)
    if any("delete" in trigger.kinds for trigger in topic.triggers):
        raise Unsupported(f"the topic tells of deletions, of which no {kind} message is made", location=where)
