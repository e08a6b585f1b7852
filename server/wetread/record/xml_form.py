"""R4 resources as XML and back without loss (FHIR R4 xml.html 2.6): decimals keep their digits, narratives their text.

What R4's tables of elements tell drives both ways: the order of elements, which of them repeat, and of what type each
is. A document with a DTD is refused unread, so that no entity is ever declared, let alone fetched.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache
from itertools import zip_longest
from typing import Any, NoReturn
from xml.parsers import expat

from wetread.errors import InvalidInput, NotAcceptable, TooLarge
from wetread.record import lossless
from wetread.record.structures import PRIMITIVES, Structure, all_resource_types, is_a, structure

_FHIR = "http://hl7.org/fhir"
_XHTML_DIV = "http://www.w3.org/1999/xhtml div"
_SCHEMA_HINTS = "http://www.w3.org/2001/XMLSchema-instance "
_DEEPEST = 200
_MOST_ELEMENTS = 500_000
_ELEMENT = re.compile(r"\s*<[^?]")  # and no XML declaration, which is nothing but the start of a document
_TAG = re.compile(r"""<([^\s/>]+)(?:[^"'>]|"[^"]*"|'[^']*')*>""")
_DECLARED = re.compile(r"""\sxmlns:?([^\s="']*)\s*=""")
_PREFIX = re.compile(r"""[<\s]([^\s<>:="'/]+):""")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,999})((?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,9})?)")
_NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff\ud800-\udfff]")
_TO_ESCAPE = re.compile('[&<>"\t\n\r]')
_ESCAPED = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\t": "&#9;", "\n": "&#10;", "\r": "&#13;"}


def to_xml(text: str, *, pretty: bool = False) -> str:
    """The XML of a resource in JSON. Raises NotAcceptable where XML cannot hold it, which a valid resource never is."""
    writer = _Writer(pretty)
    content = lossless.parse(text)
    writer.resource(content, str(content.get("resourceType", "")), 0)
    xml = "".join(writer.parts)
    if _NOT_IN_XML.search(xml):
        raise NotAcceptable("the resource holds a control character, which XML cannot; ask for JSON")
    return xml


def to_json(text: str) -> str:
    """The JSON of a resource in XML. Raises InvalidInput with the place, as a FHIRPath, of what R4 does not know."""
    root = _tree(text)
    return lossless.dump(_resource(root, root.name))


@cache
def _ranks(name: str) -> Mapping[str, int]:
    """Where each member of a structure stands among its elements."""
    known = structure(name)
    return {member: rank for rank, member in enumerate(known.members)} if known is not None else {}


def _resource_type(name: object) -> Structure | None:
    """By a list first: what is asked of `structure` is kept, and a name from outside must not be."""
    return structure(name) if isinstance(name, str) and name in all_resource_types() else None


def _is_attribute(known: Structure, name: str) -> bool:
    """Whether an element is an attribute in XML (2.6.1): the id within an element, and the url of an extension."""
    return (name == "id" and not known.is_resource) or (name == "url" and known.name == "Extension")


# JSON to XML


def _impossible(where: str) -> NoReturn:
    raise NotAcceptable("R4 gives no XML form to what is stored here; ask for JSON", location=where)


@dataclass(slots=True)
class _Writer:
    pretty: bool
    parts: list[str] = field(default_factory=lambda: ['<?xml version="1.0" encoding="UTF-8"?>'])

    def resource(self, content: Mapping[str, Any], where: str, level: int) -> None:
        known = _resource_type(content.get("resourceType"))
        if known is None:
            _impossible(where)
        namespace = f' xmlns="{_FHIR}"' if level == 0 else ""
        rest = {key: value for key, value in content.items() if key != "resourceType"}
        self._complex(known.name, namespace, rest, known, where, level)

    def _complex(
        self, tag: str, attributes: str, content: Mapping[str, Any], known: Structure, where: str, level: int
    ) -> None:
        ranks = _ranks(known.name)
        try:
            names = sorted({name.removeprefix("_") for name in content}, key=ranks.__getitem__)
        except KeyError:
            _impossible(where)
        for name in names:
            if _is_attribute(known, name):
                attributes += f' {name}="{_escaped(content.get(name), f"{where}.{name}")}"'
                if f"_{name}" in content:
                    _impossible(f"{where}.{name}")
        names = [name for name in names if not _is_attribute(known, name)]
        self._line(level)
        if not names:
            self.parts.append(f"<{tag}{attributes}/>")
            return
        self.parts.append(f"<{tag}{attributes}>")
        for name in names:
            self._member(name, content.get(name), content.get(f"_{name}"), known, f"{where}.{name}", level + 1)
        self._line(level)
        self.parts.append(f"</{tag}>")

    def _member(self, name: str, value: Any, beside: Any, known: Structure, where: str, level: int) -> None:
        element, kind = known.members[name]
        if not element.array:
            self._item(name, kind, value, beside, where, level)
            return
        values, besides = (
            each if isinstance(each, list) else [] if each is None else _impossible(where) for each in (value, beside)
        )
        for at, (one, by) in enumerate(zip_longest(values, besides)):
            self._item(name, kind, one, by, f"{where}[{at}]", level)

    def _item(self, name: str, kind: str, value: Any, beside: Any, where: str, level: int) -> None:
        if kind == "xhtml" and beside is None:
            self._line(level)
            self.parts.append(_narrative(value, where))
        elif kind in PRIMITIVES:
            self._primitive(name, value, beside, where, level)
        elif not isinstance(value, Mapping) or beside is not None:
            _impossible(where)
        elif kind == "Resource":
            self._line(level)
            self.parts.append(f"<{name}>")
            self.resource(value, where, level + 1)
            self._line(level)
            self.parts.append(f"</{name}>")
        else:
            within = structure(kind)
            if within is None:
                _impossible(where)
            self._complex(name, "", value, within, where, level)

    def _primitive(self, name: str, value: Any, beside: Any, where: str, level: int) -> None:
        attributes = f' value="{_escaped(value, where)}"' if value is not None else ""
        if beside is None:
            if value is None:
                _impossible(where)
            self._line(level)
            self.parts.append(f"<{name}{attributes}/>")
            return
        within = structure("Element")
        if within is None or not isinstance(beside, Mapping):
            _impossible(where)
        self._complex(name, attributes, beside, within, where, level)

    def _line(self, level: int) -> None:
        if self.pretty:
            self.parts.append("\n" + "  " * level)


def _escaped(value: Any, where: str) -> str:
    match value:
        case str():
            return _TO_ESCAPE.sub(lambda found: _ESCAPED[found.group()], value)
        case bool():
            return "true" if value else "false"
        case int() | Decimal():
            return str(value)
    _impossible(where)


def _narrative(div: Any, where: str) -> str:
    """The text of a narrative as it stands, which must be one XHTML div that leans on nothing around it."""
    if not isinstance(div, str) or not _ELEMENT.match(div):
        _impossible(where)
    try:
        root = _parsed(div)
    except (InvalidInput, TooLarge):
        _impossible(where)
    if root.name != _XHTML_DIV:
        _impossible(where)
    return div


# XML to JSON


@dataclass(slots=True)
class _Node:
    """`name` is without namespace where that is FHIR's. `source` is the text of a narrative as it came."""

    name: str
    attributes: dict[str, str]
    children: list[_Node] = field(default_factory=list)
    has_text: bool = False
    source: str = ""


def _tree(text: str) -> _Node:
    root = _parsed(text)
    if _resource_type(root.name) is None:
        raise InvalidInput(f"the root element is no R4 resource in the namespace {_FHIR}", location="/*")
    return root


def _parsed(text: str) -> _Node:
    """The elements of a document, with each narrative unopened. Raises InvalidInput, TooLarge."""
    data = text.encode("utf-8", "surrogatepass")
    reader = _Reader(data)
    try:
        reader.parser.Parse(data, True)
    except expat.ExpatError as error:
        message = f"not XML: {expat.ErrorString(error.code)} at line {error.lineno}, column {error.offset}"
        raise InvalidInput(message) from error
    assert reader.root is not None  # noqa: S101 (the parser refuses a document without one)
    return reader.root


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.root: _Node | None = None
        self._data = data
        self._open: list[_Node] = []
        self._count = 0
        self._narrative_from = (0, 0)
        """Where the narrative being passed over begins, and on which level; no level where there is none."""
        self._spaces: dict[str, list[str]] = {}
        self.parser = expat.ParserCreate("utf-8", namespace_separator=" ")
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text
        self.parser.StartDoctypeDeclHandler = self._refuse_doctype
        self.parser.XmlDeclHandler = self._declaration
        self.parser.StartNamespaceDeclHandler = self._declare
        self.parser.EndNamespaceDeclHandler = self._undeclare

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._count += 1
        if self._count > _MOST_ELEMENTS:
            raise TooLarge(f"XML has at most {_MOST_ELEMENTS} elements here")
        if len(self._open) == _DEEPEST:
            raise InvalidInput("the XML is nested too deeply")
        # A name in another namespace keeps a blank, and so is none that R4 knows.
        known = name.removeprefix(f"{_FHIR} ") if " " in name else f" {name}"
        node = _Node(known, attributes)
        level = self._narrative_from[1]
        if not level:
            if self._open:
                self._open[-1].children.append(node)
            else:
                self.root = node
            if name == _XHTML_DIV:
                self._narrative_from = (self.parser.CurrentByteIndex, len(self._open) + 1)
        else:
            self._open[level - 1].has_text = True
        self._open.append(node)

    def _end(self, _: str) -> None:
        node, (start, level) = self._open[-1], self._narrative_from
        if level == len(self._open):
            node.source = self._source(start, self.parser.CurrentByteIndex) if node.has_text else ""
            self._narrative_from = (0, 0)
        self._open.pop()

    def _text(self, text: str) -> None:
        level = self._narrative_from[1]
        if level:
            self._open[level - 1].has_text = True
        elif not text.isspace():
            self._open[-1].has_text = True

    def _source(self, start: int, end: int) -> str:
        """The text of a narrative. A prefix that was declared around it is declared on it."""
        text = self._data[start : self._data.index(b">", end) + 1].decode()
        tag = _TAG.match(text)
        assert tag is not None  # noqa: S101 (the parser found an element there)
        name, own = tag.group(1), set(_DECLARED.findall(tag.group()))
        used = {*_PREFIX.findall(text), name.rpartition(":")[0]} & self._spaces.keys()
        missing = "".join(
            f' xmlns{":" if prefix else ""}{prefix}="{_escaped(self._spaces[prefix][-1], "")}"'
            for prefix in sorted(used - own)
            if self._spaces[prefix]
        )
        return f"<{name}{missing}{text[tag.end(1) :]}"

    def _declare(self, prefix: str | None, uri: str | None) -> None:
        self._spaces.setdefault(prefix or "", []).append(uri or "")

    def _undeclare(self, prefix: str | None) -> None:
        self._spaces[prefix or ""].pop()

    def _refuse_doctype(self, *_: object) -> NoReturn:
        raise InvalidInput("a document type declaration is not taken (FHIR R4 2.6.0)", location="/")

    def _declaration(self, version: str, encoding: str | None, standalone: int) -> None:
        if encoding is not None and encoding.lower() not in ("utf-8", "us-ascii"):
            raise InvalidInput("send UTF-8: the XML declaration names another encoding", location="/")


def _resource(node: _Node, where: str) -> dict[str, Any]:
    known = _resource_type(node.name)
    if known is None:
        raise InvalidInput("R4 has no such resource", location=where)
    return {"resourceType": known.name, **_members(node, known, where)}


def _members(node: _Node, known: Structure, where: str) -> dict[str, Any]:
    content: dict[str, Any] = dict(_attributes(node, known, where))
    ranks, before = _ranks(known.name), -1
    for child in node.children:
        name = child.name
        if name == _XHTML_DIV:
            name = "div"
        if name not in known.members or _is_attribute(known, name):
            raise InvalidInput("R4 has no such element here", location=f"{where}.{name.rpartition(' ')[2]}")
        if ranks[name] < before:
            raise InvalidInput("an element stands after one that R4 puts behind it", location=f"{where}.{name}")
        element, kind = known.members[name]
        if element.array:
            items = content.setdefault(name, [])
            value, beside = _item(child, kind, f"{where}.{name}[{len(items)}]")
            items.append(value)
            if kind in PRIMITIVES:
                content.setdefault(f"_{name}", []).append(beside)
        elif before == ranks[name]:
            raise InvalidInput("an element that does not repeat is given twice", location=f"{where}.{name}")
        else:
            content[name], content[f"_{name}"] = _item(child, kind, f"{where}.{name}")
        before = ranks[name]
    return {name: value for name, value in content.items() if value is not None and value != [None] * _length(value)}


def _length(value: Any) -> int:
    return len(value) if isinstance(value, list) else 0


def _attributes(node: _Node, known: Structure, where: str) -> Iterator[tuple[str, str]]:
    if node.has_text:
        raise InvalidInput("an element holds text; R4 has values in attributes", location=where)
    for name, value in node.attributes.items():
        if name in known.members and _is_attribute(known, name):
            yield name, value
        elif not name.startswith(_SCHEMA_HINTS):
            raise InvalidInput("R4 has no such attribute here", location=f"{where}/@{name.rpartition(' ')[2]}")


def _item(node: _Node, kind: str, where: str) -> tuple[Any, Any]:
    """The value of an element, and of a primitive what its `_`-sibling holds (json.html 2.6.2.1)."""
    if kind == "xhtml":
        if node.name != _XHTML_DIV:
            raise InvalidInput("a narrative is a div in the namespace of XHTML", location=where)
        if not node.source:
            raise InvalidInput("the narrative is empty", location=where)
        return node.source, None
    if node.name == _XHTML_DIV:
        raise InvalidInput("R4 has no such element here", location=where)
    if kind == "Resource":
        if len(node.children) != 1 or node.attributes or node.has_text:
            raise InvalidInput("this element holds one resource and nothing else", location=where)
        return _resource(node.children[0], where), None
    if kind in PRIMITIVES:
        text = node.attributes.pop("value", None)
        beside = _members(node, _required("Element"), where) or None
        if text is None and beside is None:
            raise InvalidInput("an element has neither a value nor an extension", location=where)
        return _value(text, kind, where) if text is not None else None, beside
    content = _members(node, _required(kind), where)
    if not content:
        raise InvalidInput("an element is empty", location=where)
    return content, None


def _required(name: str) -> Structure:
    known = structure(name)
    if known is None:
        raise LookupError(f"the tables of R4 lack {name}")
    return known


def _value(text: str, kind: str, where: str) -> Any:
    if kind == "boolean":
        if text not in ("true", "false"):
            raise InvalidInput("a boolean is true or false", location=where)
        return text == "true"
    if kind != "decimal" and not is_a(kind, "integer"):
        return text
    found = _NUMBER.fullmatch(text)
    if found is None or (found.group(1) and kind != "decimal"):
        raise InvalidInput("not a number as R4 writes one", location=where)
    return Decimal(text) if found.group(1) else int(text)
