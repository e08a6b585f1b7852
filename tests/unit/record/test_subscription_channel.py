"""The channels that a Subscription may ask for (Backport IG 1.1 channels.html, R4 subscription.html)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from wetread.domain.endpoint import AllowedEndpoints
from wetread.errors import Unsupported
from wetread.record.subscriptions import channel

B = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-"
ALLOWED = AllowedEndpoints.parse(("127.0.0.0/8", "10.1.0.0/16", "engine.example.org"))
PLAIN = replace(ALLOWED, plain=True)
MLLP = {"system": "https://wetread.org/fhir/CodeSystem/wetread", "code": "mllp"}


def content(code: str) -> dict[str, Any]:
    return {"extension": [{"url": f"{B}payload-content", "valueCode": code}]}


def custom(coding: dict[str, str]) -> dict[str, Any]:
    return {"extension": [{"url": f"{B}channel-type", "valueCoding": coding}]}


def asks(name: str, value: int) -> dict[str, Any]:
    kind = "valuePositiveInt" if name == "max-count" else "valueUnsignedInt"
    return {"url": f"{B}{name}", kind: value}


HOOK: dict[str, Any] = {
    "type": "rest-hook",
    "endpoint": "https://engine.example.org/hook",
    "payload": "application/fhir+json",
    "_payload": content("id-only"),
}
SOCKET: dict[str, Any] = {"type": "websocket", "payload": "application/fhir+json", "_payload": content("full-resource")}
ENGINE: dict[str, Any] = {
    "_type": custom(MLLP),
    "endpoint": "mllps://10.1.2.3:2575",
    "payload": "x-application/hl7-v2+er7",
    "_payload": content("full-resource"),
}


def refused(asked: dict[str, Any], allowed: AllowedEndpoints = ALLOWED, **how: Any) -> str:
    with pytest.raises(Unsupported) as refusal:
        channel.read(asked, allowed, **how)
    assert refusal.value.http_status == 422
    return str(refusal.value.location)


@pytest.mark.parametrize("level", ["empty", "id-only", "full-resource"])
def test_a_rest_hook_at_every_level_of_content(level: str) -> None:
    found = channel.read({**HOOK, "_payload": content(level)}, ALLOWED)
    assert (found.kind, found.content, found.timeout_s, found.max_count, found.heartbeat_s) == (
        *("rest-hook", level),
        *(10, 1, 0),
    )


@pytest.mark.parametrize("path", ["a b", "hook HTTP/1.1", "a\r\nX-Own: 1", "a\tb", "\x0b", "\x7f", "füße", "\u2028"])
def test_an_endpoint_is_written_as_it_stands_in_a_request(path: str) -> None:
    endpoint = f"https://engine.example.org/{path}"
    assert refused({**HOOK, "endpoint": endpoint}) == "Subscription.channel.endpoint"


def test_a_websocket_has_a_payload_and_no_endpoint() -> None:
    found = channel.read(SOCKET, ALLOWED)
    assert (found.kind, found.endpoint, found.content_type) == ("websocket", "", "application/fhir+json")
    assert refused({**SOCKET, "endpoint": "https://engine.example.org/"}) == "Subscription.channel.endpoint"
    assert refused({**SOCKET, "header": ["A: b"]}) == "Subscription.channel.header"
    assert refused({"type": "websocket"}) == "Subscription.channel.payload"


def test_mllp_is_a_custom_channel_named_by_a_coding() -> None:
    found = channel.read(ENGINE, ALLOWED)
    assert (found.kind, found.endpoint, found.content_type) == ("mllp", "mllps://10.1.2.3:2575", ENGINE["payload"])
    beside = channel.read({**ENGINE, "type": "message", "endpoint": "mllps://engine.example.org:6661/"}, ALLOWED)
    assert beside.kind == "mllp"  # type is 1..1 in R4, and the extension decides


@pytest.mark.parametrize(
    "endpoint",
    [
        *("", "mllp://10.1.2.3", "http://10.1.2.3:2575", "mllp://10.1.2.3:2575/path", "mllp://u@10.1.2.3:2575"),
        *("mllp://10.1.2.3:99999", "mllp://[::1", "mllp://192.0.2.1:2575", "mllp://elsewhere.example.org:2575"),
        *("mllp://169.254.169.254:80", "mllp://10.1.2.3:2575?x=y", "mllp://0x0a010203:2575"),
    ],
)
def test_mllp_goes_to_a_port_of_a_listed_host(endpoint: str) -> None:
    assert refused({**ENGINE, "endpoint": endpoint}, PLAIN) == "Subscription.channel.endpoint"


def test_mllp_goes_without_tls_only_where_the_operator_lets_it() -> None:
    clear = {**ENGINE, "endpoint": "mllp://10.1.2.3:2575"}
    assert refused(clear) == "Subscription.channel.endpoint"
    assert channel.read(clear, PLAIN).endpoint == "mllp://10.1.2.3:2575"
    assert channel.read({**ENGINE, "endpoint": "mllp://127.0.0.1:2575"}, ALLOWED).kind == "mllp"


def test_mllp_is_addressed_by_msh_5_and_msh_6() -> None:
    found = channel.read({**ENGINE, "header": ["MSH-5: EHR", "MSH-6: HOSP"]}, ALLOWED)
    assert found.headers == (("MSH-5", "EHR"), ("MSH-6", "HOSP"))
    for line in ("MSH-3: ME", "Authorization: x", "MSH-5"):
        assert refused({**ENGINE, "header": [line]}) == "Subscription.channel.header"


def test_mllp_sends_one_message_for_each_event_in_the_one_version_that_is_written() -> None:
    assert refused({**ENGINE, "extension": [asks("max-count", 2)]}) == "Subscription.channel.extension"
    assert channel.read({**ENGINE, "payload": "x-application/hl7-v2+er7; version=2.5.1"}, ALLOWED).kind == "mllp"
    assert refused({**ENGINE, "payload": "x-application/hl7-v2+er7; version=2.3"}) == "Subscription.channel.payload"


MESSAGE = {**HOOK, "type": "message", "endpoint": "https://engine.example.org/fhir"}
MAIL: dict[str, Any] = {
    "type": "email",
    "endpoint": "mailto:ward-3@example.org",
    "payload": "text/plain;attach=application/fhir+json",
    "_payload": content("id-only"),
}
STREAM: dict[str, Any] = {**HOOK, "_type": custom({**MLLP, "code": "nats"}), "endpoint": "nats:wetread.findings"}


@pytest.mark.parametrize(("asked", "kind"), [(MESSAGE, "message"), (MAIL, "email"), (STREAM, "nats")])
def test_the_other_ways(asked: dict[str, Any], kind: str) -> None:
    found = channel.read(asked, ALLOWED)
    assert (found.kind, found.endpoint, found.content) == (kind, asked["endpoint"], "id-only")
    assert refused(asked, by_criteria=True) == "Subscription.channel.type"


def test_a_message_goes_to_a_listed_host() -> None:
    assert refused({**MESSAGE, "endpoint": "https://elsewhere.example.org/fhir"}) == "Subscription.channel.endpoint"


@pytest.mark.parametrize("payload", ["application/fhir+json", "text/html", "text/plain;attach=application/fhir+xml"])
def test_mail_is_plain_text(payload: str) -> None:
    assert refused({**MAIL, "payload": payload}) == "Subscription.channel.payload"


def test_no_resource_goes_by_mail() -> None:
    assert refused({**MAIL, "_payload": content("full-resource")}) == "Subscription.channel.payload"
    assert channel.read({**MAIL, "_payload": content("empty")}, ALLOWED).content == "empty"


@pytest.mark.parametrize(
    "endpoint",
    [
        *("", "ward-3@example.org", "mailto:a@b@example.org", "mailto:a@example.org,b@example.org"),
        *("mailto:a@example.org?cc=b@example.org", "mailto:a@example.org\r\nBcc: b", "mailto:<a@example.org>"),
        *("mailto:a%b.example@example.org", "mailto:a%40b.example@example.org", "mailto:b.example!a@example.org"),
    ],
)
def test_mail_goes_to_one_address(endpoint: str) -> None:
    assert refused({**MAIL, "endpoint": endpoint}) == "Subscription.channel.endpoint"


@pytest.mark.parametrize(
    "endpoint", ["", "wetread.x", "nats:", "nats:a..b", "nats:a.>", "nats:*", "nats:a b", "nats:$SYS.x"]
)
def test_a_stream_is_fed_under_one_subject(endpoint: str) -> None:
    assert refused({**STREAM, "endpoint": endpoint}) == "Subscription.channel.endpoint"


@pytest.mark.parametrize("name", ["webhook-signature", "Webhook-Id", "webhook-timestamp"])
def test_no_client_writes_a_signature_of_ours(name: str) -> None:
    assert refused({**HOOK, "header": [f"{name}: v1,forged"]}) == "Subscription.channel.header"


@pytest.mark.parametrize("payload", ["application/fhir+json", "", "text/plain"])
def test_mllp_carries_hl7_v2_alone(payload: str) -> None:
    assert refused({**ENGINE, "payload": payload}) == "Subscription.channel.payload"


def test_an_hl7_message_cannot_be_told_without_the_resource() -> None:
    assert refused({**ENGINE, "_payload": content("id-only")}) == "Subscription.channel.payload"


@pytest.mark.parametrize(
    ("type_", "extended"),
    [
        ("sms", None),
        ("mllp", None),
        ("", None),
        ("rest-hook", custom({"system": "http://example.org/channels", "code": "mllp"})),
        ("rest-hook", custom({"code": "mllp"})),
        ("rest-hook", {"extension": [*custom(MLLP)["extension"], *custom(MLLP)["extension"]]}),
        ("rest-hook", {"extension": [{"url": f"{B}channel-type", "valueString": "mllp"}]}),
    ],
)
def test_a_channel_that_is_not_here_is_refused(type_: str, extended: dict[str, Any] | None) -> None:
    assert refused({**ENGINE, "type": type_, "_type": extended}) == "Subscription.channel.type"


def test_an_extension_of_the_type_that_is_not_known_is_refused() -> None:
    other = {"extension": [{"url": "http://example.org/other", "valueBoolean": True}]}
    assert refused({**HOOK, "_type": other}) == "Subscription.channel.type.extension"
    assert refused({**HOOK, "extension": other["extension"]}) == "Subscription.channel.extension"


def test_timeout_number_and_heartbeat_are_kept() -> None:
    wanted = [asks("timeout", 60), asks("max-count", 20), asks("heartbeat-period", 30)]
    found = channel.read({**HOOK, "extension": wanted}, ALLOWED)
    assert (found.timeout_s, found.max_count, found.heartbeat_s) == (60, 20, 30)
    assert channel.read({**HOOK, "extension": [asks("max-count", 5000)]}, ALLOWED).max_count == 100


@pytest.mark.parametrize(
    ("name", "value"),
    [("timeout", 0), ("timeout", 61), ("max-count", 0), ("heartbeat-period", 0), ("heartbeat-period", 9)],
)
def test_a_number_that_would_not_be_kept_is_refused(name: str, value: int) -> None:
    assert refused({**HOOK, "extension": [asks(name, value)]}) == "Subscription.channel.extension"


def test_a_number_is_given_once_and_by_its_type() -> None:
    assert refused({**HOOK, "extension": [asks("timeout", 5), asks("timeout", 6)]})
    assert refused({**HOOK, "extension": [{"url": f"{B}timeout", "valueString": "5"}]})
    assert refused({**HOOK, "extension": [{"url": f"{B}timeout", "valueUnsignedInt": True}]})


@pytest.mark.parametrize(
    "payload",
    [
        *("application/fhir+json; fhirVersion=4.0", "application/json;fhirversion=4.0.1", "Application/FHIR+JSON"),
        *("application/fhir+json; charset=utf-8", 'application/fhir+json; fhirVersion="4.0"'),
        "application/fhir+xml; fhirVersion=4.0",
    ],
)
def test_a_payload_in_our_version_is_kept_as_it_is_written(payload: str) -> None:
    assert channel.read({**HOOK, "payload": payload}, ALLOWED).content_type == payload


@pytest.mark.parametrize(
    "payload",
    [
        *("application/fhir+json; fhirVersion=5.0", "application/fhir+json; fhirVersion=4.3", "text/html", ""),
        *("application/fhir+json; charset=latin-1", "application/fhir+json; profile=x", "application/xml"),
    ],
)
def test_a_payload_in_another_version_or_form_is_refused(payload: str) -> None:
    assert refused({**HOOK, "payload": payload}) == "Subscription.channel.payload"


def test_xml_goes_by_rest_hook_only() -> None:
    xml = {"payload": "application/fhir+xml"}
    assert channel.read({"type": "rest-hook", "endpoint": HOOK["endpoint"], **xml}, ALLOWED, by_criteria=True)
    assert refused({**HOOK, "type": "message", **xml}) == "Subscription.channel.payload"


def test_by_criteria_a_payload_is_the_resource_and_none_is_a_sign() -> None:
    bare = {"type": "rest-hook", "endpoint": "https://engine.example.org/hook"}
    assert channel.read(bare, ALLOWED, by_criteria=True).content == "ping"
    with_resource = channel.read({**bare, "payload": "application/fhir+json"}, ALLOWED, by_criteria=True)
    assert with_resource.content == "resource"
    assert channel.read({"type": "websocket"}, ALLOWED, by_criteria=True).content == "ping"


def test_by_criteria_what_only_the_backport_has_is_refused() -> None:
    assert refused(HOOK, by_criteria=True) == "Subscription.channel.payload.extension"
    bare = {"type": "rest-hook", "endpoint": "https://engine.example.org/hook"}
    assert refused({**bare, "extension": [asks("heartbeat-period", 60)]}, by_criteria=True)
    assert refused({"type": "websocket", "payload": "application/fhir+json"}, by_criteria=True)


def test_plain_http_leaves_this_machine_only_where_the_operator_lets_it() -> None:
    plain = {**HOOK, "endpoint": "http://10.1.2.3/hook"}
    assert refused(plain) == "Subscription.channel.endpoint"
    open_ = AllowedEndpoints.parse(("10.1.0.0/16",), plain=True)
    assert channel.read(plain, open_).endpoint == "http://10.1.2.3/hook"
    with pytest.raises(Unsupported):
        channel.read({**HOOK, "endpoint": "http://192.0.2.1/hook"}, open_)
