"""A subscriber's own HTTP endpoint, as an EHR would have one: takes what comes, remembers it, answers as it is told."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Posted:
    """One request. `answered` is with what, 0 where the endpoint hung up."""

    method: str
    headers: Mapping[str, str]
    body: bytes
    at: float
    answered: int
    certificate: str = ""
    """The serial number of the one that was shown."""

    @cached_property
    def bundle(self) -> dict[str, Any]:
        parsed: dict[str, Any] = json.loads(self.body)
        return parsed

    @cached_property
    def kind(self) -> str:
        return str(status_of(self.bundle)["type"])

    @cached_property
    def numbers(self) -> list[int]:
        return [int(event["event-number"]) for event in status_of(self.bundle)["notification-event"]]


Answer = Callable[["Posted"], int]
"""What to answer, given the request (whose `answered` is not told yet); 0 hangs up. It may take its time."""


@dataclass
class Subscriber:
    port: int
    scheme: str = "http"
    answers: dict[str, Answer] = field(default_factory=dict)
    """By the path of the endpoint; 200 where nothing is said."""
    posted: dict[str, list[Posted]] = field(default_factory=lambda: defaultdict(list))

    def endpoint(self, name: str) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/{name}"

    def taken(self, name: str, kind: str = "event-notification") -> list[Posted]:
        """What was answered with 2xx, of this kind of notification."""
        return [one for one in list(self.posted[name]) if 200 <= one.answered < 300 and one.kind == kind]

    def numbers(self, name: str) -> list[int]:
        """The event numbers that were taken, in the order in which they came."""
        return [number for one in self.taken(name) for number in one.numbers]

    def wait_for(self, name: str, numbers: Sequence[int], timeout_s: float = 60) -> None:
        deadline = time.monotonic() + timeout_s
        while not set(numbers) <= set(self.numbers(name)):
            assert time.monotonic() < deadline, f"{name} was told of {self.numbers(name)[-20:]}, not of {numbers}"
            time.sleep(0.02)


@contextmanager
def subscriber(port: int = 0, tls: ssl.SSLContext | None = None) -> Iterator[Subscriber]:
    """A running one; with `tls` by https."""
    ours: list[Subscriber] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 120

        def _take(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            name, at = self.path.strip("/"), time.monotonic()
            headers = {key.lower(): value for key, value in self.headers.items()}
            shown = self.connection.getpeercert() if isinstance(self.connection, ssl.SSLSocket) else None
            certificate = str((shown or {}).get("serialNumber", ""))
            request = Posted(self.command, headers, body, at, 0, certificate)
            answered = ours[0].answers.get(name, lambda _: 200)(request)
            # Before the answer: after it the next may come by another connection, and its thread be faster.
            ours[0].posted[name].append(replace(request, answered=answered))
            if not answered:
                self.close_connection = True
            else:
                with suppress(OSError):
                    self.send_response(answered)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    self.wfile.flush()

        do_POST = do_PUT = _take  # noqa: N815 (named by http.server)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass

    with Server(("127.0.0.1", port), Handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        ours.append(Subscriber(server.server_address[1], "http" if tls is None else "https"))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield ours[0]
        finally:
            server.shutdown()
            thread.join(5)


def status_of(bundle: Mapping[str, Any]) -> dict[str, Any]:
    """What the first entry of a notification says, by parameter; `notification-event` and `error` are lists."""
    return parameters(bundle["entry"][0]["resource"])


def parameters(resource: Mapping[str, Any]) -> dict[str, Any]:
    """A Parameters resource in the Backport's form of SubscriptionStatus."""
    told: dict[str, Any] = {"notification-event": [], "error": []}
    for parameter in resource["parameter"]:
        if parameter["name"] == "notification-event":
            told["notification-event"].append(_event(parameter.get("part", ())))
        elif parameter["name"] == "error":
            told["error"].append(_value(parameter))
        else:
            told[parameter["name"]] = _value(parameter)
    return told


def _event(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    event: dict[str, Any] = {"additional-context": []}
    for part in parts:
        if part["name"] == "additional-context":
            event["additional-context"].append(_value(part)["reference"])
        else:
            event[part["name"]] = _value(part)
    return event


def _value(parameter: Mapping[str, Any]) -> Any:
    return next(value for key, value in parameter.items() if key.startswith("value"))
