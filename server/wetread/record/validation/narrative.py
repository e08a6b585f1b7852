"""The XHTML of a narrative (FHIR R4 narrative.html 2.36.1; txt-1 and txt-2): well-formed, nothing active, not empty."""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.parsers import expat

_ELEMENTS = """
    a abbr acronym address b bdo big blockquote br caption center cite code col colgroup dd del dfn div dl dt em h1 h2
    h3 h4 h5 h6 hr i img ins kbd li map area ol p pre q samp small span strike strong sub sup table tbody td tfoot th
    thead tr tt u ul var font s nobr
"""
_ATTRIBUTES = """
    title style class id lang xml:lang dir accesskey tabindex xmlns href name rel rev charset hreflang type src alt
    width height longdesc align valign border cellpadding cellspacing bgcolor colspan rowspan abbr axis headers scope
    char charoff summary frame rules span nowrap cite datetime start value compact color size face usemap shape coords
    nohref ismap noshade clear idref
"""
_ALLOWED_ELEMENTS = frozenset(_ELEMENTS.split())
_ALLOWED_ATTRIBUTES = frozenset(_ATTRIBUTES.split())
_NAMESPACE = "http://www.w3.org/1999/xhtml"
_LINKS = frozenset({"href", "src", "cite", "longdesc"})
_BLANKS = re.compile(r"[\x00-\x20]+")
"""Browsers leave them out of the scheme of a URL, wherever they stand."""
_ACTIVE = re.compile(r"javascript:|vbscript:|data:(?!image/(?:png|jpe?g|gif|bmp|webp|tiff)[;,])", re.IGNORECASE)
"""Schemes that run what they carry; of `data:` all but pictures, and SVG may hold a script."""


def faults(div: str) -> Iterator[tuple[str, str]]:
    """What is wrong with the text of `Narrative.div`: the key of the invariant broken, and words."""
    reader = _Reader()
    parser = expat.ParserCreate(namespace_separator=None)
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.data
    parser.CommentHandler = reader.comment
    parser.StartCdataSectionHandler = reader.section
    parser.ProcessingInstructionHandler = reader.instruction
    parser.buffer_text = True
    if "<!" in div and ("<!DOCTYPE" in div or "<!ENTITY" in div):
        yield "txt-1", "a narrative holds no document type declaration"
        return
    try:
        parser.Parse(div.encode("utf-8", "surrogatepass"), True)
    except expat.ExpatError:
        yield "txt-1", "the narrative is not well-formed XHTML, or names an entity that XML has not"
        return
    yield from reader.faults
    if not reader.has_content:
        yield "txt-2", "the narrative has no content other than blanks"


class _Reader:
    def __init__(self) -> None:
        self.faults: list[tuple[str, str]] = []
        self.has_content = False
        self.depth = 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        prefix, _, local = name.rpartition(":")
        if self.depth == 0:
            declared = attributes.get(f"xmlns:{prefix}" if prefix else "xmlns")
            if local != "div" or declared != _NAMESPACE:
                self._fault("a narrative is one div in the namespace of XHTML")
        self.depth += 1
        if local not in _ALLOWED_ELEMENTS:
            self._fault("a narrative holds an element that is not allowed there")
        if local == "img":
            self.has_content = True
        for key, value in attributes.items():
            if key not in _ALLOWED_ATTRIBUTES and not key.startswith("xmlns:"):
                self._fault("a narrative holds an attribute that is not allowed there")
            elif key in _LINKS and _ACTIVE.match(_BLANKS.sub("", value)):
                self._fault("a narrative holds a script")

    def end(self, name: str) -> None:
        self.depth -= 1

    def data(self, text: str) -> None:
        self.has_content = self.has_content or bool(text.strip())

    def comment(self, text: str) -> None:
        if text.startswith((">", "->")):
            self._fault("a narrative holds a comment that ends at once where it is read as HTML")

    def section(self) -> None:
        self._fault("a narrative holds a CDATA section, which is none in HTML")

    def instruction(self, target: str, text: str) -> None:
        self._fault("a narrative holds a processing instruction, which is none in HTML")

    def _fault(self, text: str) -> None:
        if ("txt-1", text) not in self.faults:
            self.faults.append(("txt-1", text))
