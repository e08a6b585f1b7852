"""From values to a page: templates that escape everything, the files they need, and the headers that fence them in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from importlib import resources
from typing import Any
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
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_ORIGIN = re.compile(r"https?://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]+)?(?=[/?]|$)", re.IGNORECASE)
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
            "span": _span,
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


def _span(seconds: float) -> str:
    """How long, in the largest unit that leaves a whole number worth reading."""
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def redirect(path: str) -> Response:
    """See Other (RFC 9110 15.4.4): the browser gets `path`, whatever the method was."""
    return RedirectResponse(path, 303, _HEADERS)


def page_may_lead_to(page: Response, *addresses: str) -> Response:
    """Lets the answer to a form of this page lead to the addresses (CSP 3 form-action: browsers hold redirects to it).

    Of each only the origin stands in the policy, or the scheme where it is an app's own; none where that could not
    stand there as one word.
    """
    sources = dict.fromkeys(source for address in addresses if (source := _source(address)))
    policy = page.headers["Content-Security-Policy"]
    allowed = " ".join(("form-action 'self'", *sources))
    page.headers["Content-Security-Policy"] = policy.replace("form-action 'self'", allowed)
    return page


def _source(address: str) -> str:
    """CSP 3 2.3.1: host-source, or scheme-source of an app's own scheme; empty for what makes neither."""
    scheme = address.partition(":")[0].lower()
    if scheme not in ("http", "https"):
        return f"{scheme}:" if _SCHEME.fullmatch(scheme) else ""
    found = _ORIGIN.match(address)
    return found[0] if found else ""


def keeps_its_opener(answer: Response) -> Response:
    """Where an app opened a window for it, page or redirect: with Cross-Origin-Opener-Policy the browser would cut the
    window off, and what comes back there could not be told to the app's page (HTML 7.1.3)."""
    del answer.headers["Cross-Origin-Opener-Policy"]
    return answer


def static_files() -> dict[str, bytes]:
    """Style, script and icon by name. They hold no data and need no token."""
    folder = resources.files("wetread.console") / "static"
    return {name: (folder / name).read_bytes() for name in _STATIC_TYPES}


def static_file(name: str, content: bytes) -> Response:
    headers = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}
    return Response(content, media_type=_STATIC_TYPES[name], headers=headers)
