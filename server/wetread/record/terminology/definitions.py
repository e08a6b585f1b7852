"""Code systems, value sets and concept maps by their canonical: those that the site stores, those of Wetread, and
those of the R4 core package. The site's win; of several versions the newest does, unless the canonical names one.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Sequence
from functools import cache, lru_cache
from importlib.resources import files
from io import BytesIO
from urllib.parse import quote, unquote

from wetread.record import lossless
from wetread.record.aside import aside
from wetread.record.search.parameters import table
from wetread.record.terminology import code_system, stored
from wetread.record.terminology.code_system import CodeSystem
from wetread.record.terminology.stored import Definition as Definition
from wetread.record.terminology.stored import Kept, Stamp
from wetread.store.database import Connection

_ANY_PART = frozenset({"x", "X", "*"})
_PARTS = ("fragment", "supplement")
"""Contents of a code system that may only add to a whole one."""
_systems: Kept[tuple[str, str, tuple[Stamp, ...]], CodeSystem] = Kept(16_000_000)
"""By url, version asked for, and the stored versions that it is made of."""


async def find(conn: Connection, resource_type: str, canonical: str, version: str = "") -> Definition | None:
    """The definition of a type that a canonical names, `|version` with it or apart; None where nobody has it."""
    url, _, named = canonical.partition("|")
    wanted = version or named
    theirs = await stored.definitions(conn, await stored.by_url(conn, resource_type, url))
    return _chosen(theirs, wanted) or _chosen(shipped(resource_type, url), wanted)


async def code_system_of(conn: Connection, canonical: str, version: str = "") -> CodeSystem | None:
    """The concepts of a code system as far as they are held; None where it is not known at all."""
    url, _, named = canonical.partition("|")
    wanted = version or named
    own, added = await stored.by_url(conn, "CodeSystem", url), await stored.supplements(conn, url)
    if not own and not added:
        return _shipped_code_system(url, wanted)
    stamps = (*own, *(stamp for stamp in added if stamp not in own))
    if (held := _systems.get((url, wanted, stamps))) is not None:
        return held
    bodies = await stored.bodies(conn, stamps)
    size, is_own = sum(len(body) for _, body in bodies), {stamp[0] for stamp in own}
    texts = [(body, stamp[0] in is_own) for stamp, body in bodies]
    made = await aside(size, lambda: _made(url, wanted, texts))
    if made is not None:
        _systems.keep((url, wanted, tuple(stamp for stamp, _ in bodies)), made, size)
    return made


def _made(url: str, wanted: str, texts: Sequence[tuple[str, bool]]) -> CodeSystem | None:
    """The code system of a url from what is stored; each text with whether it is of this url itself."""
    parsed = [(lossless.parse(text), is_own) for text, is_own in texts]
    own = [d for d, is_own in parsed if is_own]
    theirs = [*own, *(d for d, is_own in parsed if not is_own and d.get("content") == "supplement")]
    parts = [*theirs, *shipped("CodeSystem", url)]
    base = _chosen([d for d in theirs if d.get("content") not in _PARTS], wanted)
    base = base or _chosen(shipped("CodeSystem", url), wanted) or _chosen(own, wanted)
    return code_system.read(base, [p for p in parts if p.get("content") in _PARTS]) if base else None


async def code_system_in(conn: Connection, definition: Definition) -> CodeSystem:
    """The code system that a CodeSystem resource holds, with what supplements add to it."""
    added = await stored.definitions(conn, await stored.supplements(conn, str(definition.get("url", ""))))
    return code_system.read(definition, [d for d in added if d.get("content") == "supplement"])


@lru_cache(maxsize=128)
def _shipped_code_system(url: str, version: str) -> CodeSystem | None:
    known = shipped("CodeSystem", url)
    base = _chosen(known, version)
    return code_system.read(base, [d for d in known if d.get("content") in _PARTS]) if base else None


async def concept_maps(conn: Connection) -> list[Definition]:
    """Every concept map, the site's first."""
    return [*await stored.definitions(conn, await stored.concept_maps(conn)), *_shipped_concept_maps()]


def shipped(resource_type: str, url: str) -> list[Definition]:
    """What comes with this package under a url: a whole definition before a fragment."""
    core = _core(resource_type, url)
    ours = [d for d in _own(resource_type) if d["url"] == url]
    return sorted([*ours, *([core] if core else [])], key=lambda d: d.get("content") == "fragment")


def shipped_urls(resource_type: str) -> list[str]:
    """The canonicals of all that comes with this package."""
    prefix = f"{resource_type}/"
    core = {unquote(n.removeprefix(prefix)) for n in _archive().namelist() if n.startswith(prefix)}
    return sorted(core | {str(d["url"]) for d in _own(resource_type)})


@cache
def _own(resource_type: str) -> Sequence[Definition]:
    return [d for d in table("terminology-own.json") if d["resourceType"] == resource_type]


@lru_cache(maxsize=256)
def _core(resource_type: str, url: str) -> Definition | None:
    try:
        text = _archive().read(f"{resource_type}/{quote(url, safe='')}")
    except KeyError:
        return None
    definition: Definition = json.loads(text)
    return definition


@cache
def _archive() -> zipfile.ZipFile:
    return zipfile.ZipFile(BytesIO(files("wetread.record").joinpath("data", "terminology-r4.zip").read_bytes()))


@cache
def _shipped_concept_maps() -> Sequence[Definition]:
    names = [n for n in _archive().namelist() if n.startswith("ConceptMap/")]
    return [*_own("ConceptMap"), *(json.loads(_archive().read(n)) for n in names)]


def _chosen(found: Sequence[Definition], version: str) -> Definition | None:
    if version:
        fitting = [d for d in found if is_version(str(d.get("version", "")), version)]
        return next((d for d in fitting if d.get("version") == version), None) or _chosen(fitting, "")
    return max(found, key=lambda d: (d.get("content") != "fragment", _newness(d)), default=None)


def is_version(version: str, wanted: str) -> bool:
    """Whether a version is the one wanted: `1.2.0` is also `1.x` and `1.2.*`."""
    if version == wanted or not is_pattern(wanted):
        return version == wanted
    parts, pattern = version.split("."), wanted.split(".")
    return len(parts) >= len(pattern) and all(
        own == other or other in _ANY_PART for own, other in zip(parts, pattern, strict=False)
    )


def is_pattern(version: str) -> bool:
    return not _ANY_PART.isdisjoint(version.split("."))


def _newness(definition: Definition) -> list[tuple[int, str]]:
    """Orders `4.0.1` before `4.0.10`."""
    parts = re.split(r"[.\-]", str(definition.get("version", "")))
    return [(int(p), "") if p.isascii() and p.isdigit() and len(p) < 18 else (-1, p) for p in parts]
