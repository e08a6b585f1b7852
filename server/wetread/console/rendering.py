"""From values to a page: templates that escape everything, the files they need, and the headers that fence them in."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from importlib import resources
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.responses import HTMLResponse, RedirectResponse, Response

from wetread.access.rights import ROLES
from wetread.results import narrative

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_STATIC_TYPES = {"console.css": "text/css", "worklist.js": "text/javascript", "icon.svg": "image/svg+xml"}

_STATES = {
    "receiving": "images arriving",
    "complete": "being read",
    "read": "read",
    "failed": "reading failed",
    "queued": "waiting to be read",
    "done": "read, being reported",
    "held": "held",
    "reported": "reported",
    "superseded": "superseded",
}


class Pages:
    """Renders the templates of this package. `zone` is the site's: every time shown is in it."""

    def __init__(self, zone: ZoneInfo, demo: bool) -> None:
        self._zone = zone
        self._templates = Environment(
            loader=PackageLoader("wetread.console"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.globals["demo"] = demo
        self._templates.filters |= {
            "moment": self._moment,
            "role_name": lambda code: ROLES.get(code, code),
            "state_words": lambda state: _STATES[state],
            "model_label": narrative.model_label,
            "measurement_text": narrative.measurement_text,
            "finding_text": narrative.finding_text,
        }

    def page(self, template: str, values: Mapping[str, Any], status: int = 200) -> Response:
        """`visitor.header` gives what the page of somebody signed in shows at its top."""
        shown = {"principal": None, "has_own_page": False, "sign_out_token": "", **values}
        return HTMLResponse(self._templates.get_template(template).render(shown), status, _HEADERS)

    def _moment(self, at: datetime) -> Markup:
        local = at.astimezone(self._zone)
        return Markup('<time datetime="{}">{}</time>').format(
            escape(at.isoformat(timespec="seconds")), f"{local:%Y-%m-%d %H:%M:%S %Z}"
        )


def redirect(path: str) -> Response:
    """See Other (RFC 9110 15.4.4): the browser gets `path`, whatever the method was."""
    return RedirectResponse(path, 303, _HEADERS)


def page_may_lead_to(page: Response, address: str) -> Response:
    """Lets the answer to a form of this page lead to `address` (CSP 3 form-action: browsers hold redirects to it)."""
    parts = urlsplit(address)
    source = f"{parts.scheme}://{parts.netloc}" if parts.netloc else f"{parts.scheme}:"
    policy = page.headers["Content-Security-Policy"]
    page.headers["Content-Security-Policy"] = policy.replace("form-action 'self'", f"form-action 'self' {source}")
    return page


def static_files() -> dict[str, bytes]:
    """Style, script and icon by name. They hold no data and need no token."""
    folder = resources.files("wetread.console") / "static"
    return {name: (folder / name).read_bytes() for name in _STATIC_TYPES}


def static_file(name: str, content: bytes) -> Response:
    headers = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}
    return Response(content, media_type=_STATIC_TYPES[name], headers=headers)
