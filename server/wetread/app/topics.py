"""The topics that may be subscribed to."""

from __future__ import annotations

from collections.abc import Mapping

from wetread.record.subscriptions import topics
from wetread.record.subscriptions.topics import Topic
from wetread.settings import Settings, share_dir


def served_topics(settings: Settings) -> Mapping[str, Topic]:
    """Those that are shipped and the site's own, by canonical URL. Raises Misconfigured naming the file at fault."""
    own = [settings.overlay_dir / "topics"] if settings.overlay_dir else []
    return topics.load(share_dir() / "conformance" / "topics", *own)
