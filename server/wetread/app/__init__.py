"""The only composition root: settings in, running roles out. Whoever wants to know what uses what reads these files."""

from wetread.app.auditing import audit_keeper, audit_streams
from wetread.app.faces import Front, front, web_app
from wetread.app.keys import TOKEN_AUDIENCE, audit_keys, signing_keys, tokens
from wetread.app.models import model_packages
from wetread.app.peers import peer_tls
from wetread.app.rooms import House, house
from wetread.app.topics import served_topics

__all__ = [
    "TOKEN_AUDIENCE",
    "Front",
    "House",
    "audit_keeper",
    "audit_keys",
    "audit_streams",
    "front",
    "house",
    "model_packages",
    "peer_tls",
    "served_topics",
    "signing_keys",
    "tokens",
    "web_app",
]
