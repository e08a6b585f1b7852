"""The maps' files: YAML in which everything is text, the shipped ones with the site's laid over them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any, NoReturn

import yaml

from wetread.errors import Misconfigured


class _Loader(yaml.SafeLoader):
    """YAML in which every plain scalar but true, false and null is text: `NO`, `08` and `1.10` stay what they are."""


_Loader.yaml_implicit_resolvers = {}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"(?:true|false)\Z"), ["t", "f"])
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"(?:null|~|)\Z"), ["n", "~", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile(r"<<\Z"), ["<"])


def _unique(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key) for key, _ in node.value]
    for key in keys:
        if keys.count(key) > 1:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", node.start_mark)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _unique)


@dataclass(frozen=True, slots=True)
class Source:
    """One file; what is wrong in it is told by file and key."""

    file: FilePath
    content: Mapping[str, Any]

    def wrong(self, problem: str, *key: str) -> NoReturn:
        where = ".".join(key)
        raise Misconfigured(f"{self.file}: {where + ': ' if where else ''}{problem}", location=where or None)

    def table(self, *key: str) -> Mapping[str, Any]:
        value: Any = self.content
        for part in key:
            value = value.get(part)
            if not isinstance(value, Mapping):
                self.wrong("expected a table of keys and values", *key)
        return dict(value)

    def string(self, value: Any, *key: str) -> str:
        if not isinstance(value, str):
            self.wrong("expected text", *key)
        return value

    def only(self, table: Mapping[str, Any], allowed: frozenset[str], *key: str) -> None:
        for name in table:
            if name not in allowed:
                self.wrong(f"unknown key; expected one of {', '.join(sorted(allowed))}", *key, str(name))


def files(shipped: FilePath, overlay: FilePath | None, folder: str) -> dict[str, Source]:
    """By name, without `.yaml`. Raises Misconfigured."""
    sources = {file.stem: _read(file) for file in sorted((shipped / folder).glob("*.yaml"))}
    if overlay is not None:
        for file in sorted((overlay / folder).glob("*.yaml")):
            site = _read(file)
            if site.content.get("extends") is not None:
                if site.content["extends"] != "shipped" or file.stem not in sources:
                    site.wrong("expected `shipped`, and a shipped file of this name", "extends")
                own = {key: value for key, value in site.content.items() if key != "extends"}
                site = Source(file, _laid_over(sources[file.stem].content, own))
            sources[file.stem] = site
    return sources


def _read(file: FilePath) -> Source:
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as problem:
        raise Misconfigured(f"{file}: cannot be read as YAML: {problem}") from problem
    if not isinstance(content, Mapping):
        raise Misconfigured(f"{file}: expected a table of keys and values")
    return Source(file, content)


def _laid_over(shipped: Mapping[str, Any], site: Mapping[str, Any], depth: int = 2) -> dict[str, Any]:
    """Sections are joined key by key; what stands under a key of a section is replaced whole; null removes it."""
    joined = dict(shipped)
    for key, value in site.items():
        if value is None:
            joined.pop(key, None)
        elif depth > 1 and isinstance(value, Mapping) and isinstance(joined.get(key), Mapping):
            joined[key] = _laid_over(joined[key], value, depth - 1)
        else:
            joined[key] = value
    return joined
