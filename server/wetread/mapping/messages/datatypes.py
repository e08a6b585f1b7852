"""FHIR R4 data types as HL7 v2 data types (v2.5.1 chapter 2.A): what `as:` names in a map of `mappings/messages/`.

A converter gives the text of a field, escaped, without trailing delimiters; empty where the item holds nothing of the
kind. Delimiters are the usual ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeAlias
from urllib.parse import unquote

from wetread.domain.codes import WETREAD
from wetread.record import fhirpath
from wetread.wire.hl7 import Delimiters, escape

_MARKS = Delimiters()
_OID = re.compile(r"urn:oid:(?P<oid>[0-2](?:\.(?:0|[1-9]\d*))+)")
_LOCAL_AUTHORITY = "urn:wetread:authority:"
_LOCAL_SYSTEM = "urn:wetread:coding-system:"
_V2_TABLE = re.compile(r"http://terminology\.hl7\.org/CodeSystem/v2-(\d{4})")
_STAMP = re.compile(
    r"(?P<date>\d{4}(?:-\d\d(?:-\d\d)?)?)"
    r"(?:T(?P<time>\d\d:\d\d(?::\d\d)?)(?P<fraction>\.\d+)?(?P<zone>Z|[+-]\d\d:\d\d)?)?"
)
_UCUM = "http://unitsofmeasure.org"


@dataclass(frozen=True)
class Names:
    """What URIs are called in HL7 v2: systems of identifiers by their namespace (HD.1), code systems by table 0396."""

    authorities: Mapping[str, str] = field(default_factory=dict)
    coding_systems: Mapping[str, str] = field(default_factory=dict)


Converter: TypeAlias = Callable[[Any, Names], str]


def names(authorities: Mapping[str, str], coding_systems: Mapping[str, Any]) -> Names:
    """From the tables that read messages, which go from the name to the URI. Of several names the first counts that is
    a word, then the first."""
    by_system: dict[str, str] = {}
    for name, uri in sorted(coding_systems.items(), key=lambda pair: pair[0][0].isdigit()):
        by_system.setdefault(str(uri), name)
    by_authority: dict[str, str] = {}
    for name, uri in authorities.items():
        by_authority.setdefault(uri, name)
    return Names(by_authority, by_system | {WETREAD: "99WETREAD"})


def text(item: Any, names: Names) -> str:
    """On one line; numbers with the digits that they have."""
    value = fhirpath.plain(item)
    if isinstance(value, bool):
        return "Y" if value else "N"
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, fhirpath.Temporal):
        value = value.text
    return escape(" ".join(str(value).split()), _MARKS) if isinstance(value, str | int) else ""


def lines(item: Any, names: Names) -> str:
    r"""FT (2.A.31): line breaks stay, as \.br\."""
    value = fhirpath.plain(item)
    if not isinstance(value, str):
        return ""
    return escape("\n".join(" ".join(line.split()) for line in value.strip().splitlines()), _MARKS)


def date(item: Any, names: Names) -> str:
    """DT (2.A.21), the precision kept."""
    found = _STAMP.fullmatch(_raw(item))
    return found["date"].replace("-", "") if found else ""


def date_time(item: Any, names: Names) -> str:
    """DTM (2.A.22), precision and offset kept; tenths of a second and less are left out."""
    found = _STAMP.fullmatch(_raw(item))
    if not found:
        return ""
    day = found["date"].replace("-", "")
    if not found["time"]:
        return day
    zone = "" if not found["zone"] else "+0000" if found["zone"] == "Z" else found["zone"].replace(":", "")
    return day + found["time"].replace(":", "") + zone


def instant(at: datetime) -> str:
    """A moment as DTM, in the zone that it tells."""
    return at.strftime("%Y%m%d%H%M%S%z")


def uid(item: Any, names: Names) -> str:
    """The DICOM UID in an identifier (R4 imagingstudy.html 8.8: `urn:oid:` and the UID)."""
    value = _raw(item) if not isinstance(_object(item), dict) else str(_object(item).get("value", ""))
    return escape(value.removeprefix("urn:oid:"), _MARKS)


def cx(item: Any, names: Names) -> str:
    """CX (2.A.14): the identifier with its assigning authority and type."""
    identifier = _object(item)
    if not identifier.get("value"):
        return ""
    kinds = [
        c.get("code", "") for c in identifier.get("type", {}).get("coding", ()) if "v2-0203" in c.get("system", "")
    ]
    return _joined(
        _text(identifier["value"]), "", "", _hd(identifier, names, _MARKS.subcomponent), _text(_first(kinds))
    )


def ei(item: Any, names: Names) -> str:
    """EI (2.A.28): the identifier, its namespace and universal id."""
    identifier = _object(item)
    if not identifier.get("value"):
        return ""
    return _joined(_text(identifier["value"]), _hd(identifier, names, _MARKS.component))


def _hd(identifier: Mapping[str, Any], names: Names, mark: str) -> str:
    """HD (2.A.33) of an identifier's system, else of its assigner's name."""
    system = str(identifier.get("system", ""))
    if system.startswith(_LOCAL_AUTHORITY):
        return _text(unquote(system.removeprefix(_LOCAL_AUTHORITY)))
    namespace = _text(names.authorities.get(system, ""))
    if found := _OID.fullmatch(system):
        return mark.join((namespace, found["oid"], "ISO"))
    if system.startswith("urn:uuid:"):
        return mark.join((namespace, system.removeprefix("urn:uuid:"), "UUID"))
    if system:
        return mark.join((namespace, _text(system), "URI"))
    return _text(identifier.get("assigner", {}).get("display", ""))


def xpn(item: Any, names: Names) -> str:
    """XPN (2.A.88). A name that is only text stands as the family name, so that it is shown."""
    name = _object(item)
    use = {"official": "L", "usual": "D", "maiden": "M", "nickname": "N", "anonymous": "S", "old": "BAD"}
    family, given = str(name.get("family", "")), [str(g) for g in name.get("given", ())]
    if not family and not given:
        family = str(name.get("text", ""))
    if not family and not given:
        return ""
    parts = (family, _first(given), " ".join(given[1:]), " ".join(name.get("suffix", ())))
    return _joined(*map(_text, parts), _text(" ".join(name.get("prefix", ()))), "", use.get(name.get("use", ""), ""))


def xad(item: Any, names: Names) -> str:
    """XAD (2.A.87)."""
    address = _object(item)
    use = {"home": "H", "work": "B", "temp": "C", "old": "BA", "billing": "BI"}.get(address.get("use", ""), "")
    street = [str(line) for line in address.get("line", ())]
    parts = [_first(street), ", ".join(street[1:])]
    parts += [str(address.get(key, "")) for key in ("city", "state", "postalCode", "country")]
    if not any(parts):
        return ""
    kind = "M" if not use and address.get("type") == "postal" else use
    return _joined(*map(_text, parts), kind, "", _text(str(address.get("district", ""))))


def xtn(item: Any, names: Names) -> str:
    """XTN (2.A.89), the number as it stands in XTN.12, or the mail address in XTN.4."""
    telecom = _object(item)
    value = _text(str(telecom.get("value", "")))
    if not value:
        return ""
    use = {"home": "PRN", "work": "WPN", "mobile": "PRS"}.get(telecom.get("use", ""), "")
    if telecom.get("system") == "email":
        return _joined("", "NET", "Internet", value)
    equipment = {"fax": "FX", "pager": "BP"}.get(telecom.get("system", ""), "CP" if use == "PRS" else "PH")
    return _joined(value, use, equipment, *[""] * 8, value)


def ce(item: Any, names: Names) -> str:
    """CE (2.A.10) of a CodeableConcept or Coding: the first two codings, else the words."""
    return _MARKS.component.join(cwe(item, names).split(_MARKS.component)[:6]).rstrip(_MARKS.component)


def cwe(item: Any, names: Names) -> str:
    """CWE (2.A.13): as CE, and the words as the original text where they are none of the displays."""
    concept = _object(item)
    codings = concept.get("coding", ()) if fhirpath_type(item) == "CodeableConcept" else [concept]
    told = [c for c in codings if c.get("code")][:2]
    words = str(concept.get("text", ""))
    parts = [part for coding in told for part in _coding(coding, names)]
    if not parts:
        return _joined("", _text(words)) if words else ""
    own = words if words not in [str(c.get("display", "")) for c in told] else ""
    return _joined(*parts, *[""] * (8 - len(parts)), _text(own))


def _coding(coding: Mapping[str, Any], names: Names) -> tuple[str, str, str]:
    return (
        _text(str(coding["code"])),
        _text(str(coding.get("display", ""))),
        _text(coding_system(str(coding.get("system", "")), names)),
    )


def coding_system(uri: str, names: Names) -> str:
    """The name of a code system by table 0396; L, local, where it has none."""
    if uri in names.coding_systems:
        return names.coding_systems[uri]
    if found := _V2_TABLE.fullmatch(uri):
        return f"HL7{found[1]}"
    if found := _OID.fullmatch(uri):
        return str(found["oid"])
    return unquote(uri.removeprefix(_LOCAL_SYSTEM)) if uri.startswith(_LOCAL_SYSTEM) else "L"


def xcn(item: Any, names: Names) -> str:
    """XCN (2.A.86) of a Practitioner, or of a Reference that shows a name."""
    person = _object(item)
    if person.get("resourceType") != "Practitioner":
        return _joined("", _text(str(person.get("display", ""))))
    name = _first_object(person.get("name"))
    identifier = _first_object(person.get("identifier"))
    given = [str(g) for g in name.get("given", ())]
    parts = (str(identifier.get("value", "")), str(name.get("family", name.get("text", ""))), _first(given))
    more = (" ".join(given[1:]), " ".join(name.get("suffix", ())), " ".join(name.get("prefix", ())))
    return _joined(*map(_text, parts + more), "", "", _hd(identifier, names, _MARKS.subcomponent))


def value_type(item: Any, names: Names) -> str:
    """OBX-2 (table 0125) of what `value` makes of the same item."""
    kind = {"Quantity": "NM", "CodeableConcept": "CWE", "Range": "SN", "Ratio": "SN", "Period": "DR"}.get(
        fhirpath_type(item), ""
    )
    if kind == "NM" and _object(item).get("comparator"):
        return "SN"
    primitives = {"integer": "NM", "boolean": "ID", "dateTime": "TS", "time": "TM", "string": "FT"}
    return kind or primitives.get(fhirpath_type(item), "ST")


def value(item: Any, names: Names) -> str:
    """OBX-5 of an Observation's value. SN (2.A.69) holds a comparator, a ratio or a range."""
    held = _object(item)
    match fhirpath_type(item):
        case "Quantity":
            number = _number(held.get("value"))
            return _joined(_text(str(held["comparator"])), number) if held.get("comparator") else number
        case "CodeableConcept":
            return cwe(item, names)
        case "Range":
            low, high = (_number(held.get(end, {}).get("value")) for end in ("low", "high"))
            if low and high:
                return _joined("", low, "-", high)
            return _joined(">=", low) if low else _joined("<=", high) if high else ""
        case "Ratio":
            upper, lower = (_number(held.get(part, {}).get("value")) for part in ("numerator", "denominator"))
            return _joined("", upper, ":", lower)
        case "Period":
            return _joined(*(date_time(held.get(end, ""), names) for end in ("start", "end")))
        case "dateTime":
            return date_time(item, names)
        case "time":
            return _raw(item).replace(":", "")
        case "string":
            return lines(item, names)
    return text(item, names)


def unit(item: Any, names: Names) -> str:
    """OBX-6 of a Quantity, or of a Range's or Ratio's first part."""
    held = _object(item)
    quantity = held if fhirpath_type(item) == "Quantity" else held.get("low") or held.get("high") or {}
    code, words = str(quantity.get("code", "")), str(quantity.get("unit", ""))
    if not code:
        return _joined("", _text(words)) if words else ""
    system = str(quantity.get("system", ""))
    return _joined(_text(code), _text(words), "UCUM" if system == _UCUM else coding_system(system, names))


def reference(item: Any, names: Names) -> str:
    """The type and id that a Reference names."""
    return _text(str(_object(item).get("reference", "")))


def fhirpath_type(item: Any) -> str:
    return item.type if isinstance(item, fhirpath.Node) else ""


def _object(item: Any) -> Mapping[str, Any]:
    held = item.value if isinstance(item, fhirpath.Node) else item
    return held if isinstance(held, dict) else {}


def _first_object(items: Any) -> Mapping[str, Any]:
    return items[0] if isinstance(items, list) and items and isinstance(items[0], dict) else {}


def _raw(item: Any) -> str:
    held = item.value if isinstance(item, fhirpath.Node) else item
    return held if isinstance(held, str) else ""


def _number(value: Any) -> str:
    return f"{Decimal(value):f}" if isinstance(value, Decimal | int) else ""


def _first(texts: Sequence[str]) -> str:
    return texts[0] if texts else ""


def _text(value: Any) -> str:
    return escape(" ".join(str(value).split()), _MARKS)


def _joined(*components: str) -> str:
    return _MARKS.component.join(components).rstrip(_MARKS.component)


CONVERTERS: Mapping[str, Converter] = {
    "text": text,
    "lines": lines,
    "date": date,
    "date-time": date_time,
    "uid": uid,
    "cx": cx,
    "ei": ei,
    "xpn": xpn,
    "xad": xad,
    "xtn": xtn,
    "ce": ce,
    "cwe": cwe,
    "xcn": xcn,
    "value": value,
    "value-type": value_type,
    "unit": unit,
    "reference": reference,
}
