"""Links between the entries of a transaction, made real (FHIR R4 3.1.0.11.2).

R4 has them replaced in references, in elements of type uri, url, oid and uuid, and in the links and pictures of the
narrative; not in canonicals, nor in strings such as the value of an identifier.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

_NAMES = """
    address authority authorizationUrl contentReference defaultValueOid defaultValueUri defaultValueUrl
    defaultValueUuid definitionUri derivedFromUri endpoint eventUri fixedOid fixedUri fixedUrl fixedUuid fullUrl
    implicitRules instantiates instantiatesUri issuer jurisdiction link location moduleUri nameUrl
    onlineInformation patternOid patternUri patternUrl patternUuid policy protocol reference relativePath
    rendering source sourceUri system target targetUri uri url valueOid valueUri valueUrl valueUuid
"""
_LINKS = frozenset(_NAMES.split())
"""The elements of R4 that hold, somewhere, a uri, url, oid or uuid, or the text of a Reference."""
_CONDITIONAL = re.compile(r"([A-Z][A-Za-z]+)\?(.+)")
_IN_NARRATIVE = re.compile(r"""(?<=[\s"'])(href|src)(\s*=\s*)(["'])(.*?)\3""", re.DOTALL)
_VERSION = re.compile(r"(.+)/_history/[A-Za-z0-9\-.]{1,64}")


def conditional_references(value: Any) -> Iterator[tuple[str, str, str]]:
    """The references by search: the text as it stands, its type, its search."""
    match value:
        case Mapping():
            reference = value.get("reference")
            if isinstance(reference, str) and (found := _CONDITIONAL.fullmatch(reference)):
                yield reference, found[1], found[2]
            for member in value.values():
                yield from conditional_references(member)
        case list():
            for item in value:
                yield from conditional_references(item)


def rewritten(content: dict[str, Any], targets: Mapping[str, str]) -> dict[str, Any]:
    """The content with each link that `targets` has replaced by what it has; the content itself where there is none."""
    if not targets:
        return content

    def link(text: str) -> str:
        address, hash_, fragment = text.partition("#")
        found = targets.get(text) or targets.get(address)
        if found is None and (versioned := _VERSION.fullmatch(address)):
            found = targets.get(versioned[1])
        return text if found is None else f"{found}{hash_}{fragment}"

    result: dict[str, Any] = _rewritten(content, link)
    return result


def _rewritten(value: Any, link: Callable[[str], str]) -> Any:
    match value:
        case Mapping():
            return {key: _member(key, member, link) for key, member in value.items()}
        case list():
            return [_rewritten(item, link) for item in value]
    return value


def _member(key: str, member: Any, link: Callable[[str], str]) -> Any:
    if isinstance(member, str):
        if key == "div":
            return _IN_NARRATIVE.sub(lambda found: f"{found[1]}{found[2]}{found[3]}{link(found[4])}{found[3]}", member)
        return link(member) if key in _LINKS else member
    if isinstance(member, list) and key in _LINKS:
        return [link(item) if isinstance(item, str) else _rewritten(item, link) for item in member]
    return _rewritten(member, link)
