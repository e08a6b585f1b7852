"""UCUM units on their common base (UCUM 2.2 section 4): 5.4 mg and 0.0054 g become the same number of the same unit.

`ucumvert` parses, `pint` converts. Reading its definitions takes most of a second, at the first unit that is asked for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Context, Decimal
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any
from xml.etree import ElementTree

UCUM = "http://unitsofmeasure.org"
_LONGEST = 64
_DIGITS = Context(prec=12)
_EXACT = Context(prec=28)
_ATOM = re.compile(r"\[[^\]]*\]")


@dataclass(frozen=True, slots=True)
class Canonical:
    """value in `unit` = value * factor + offset."""

    unit: str
    factor: Decimal
    offset: Decimal

    def of(self, value: Decimal) -> Decimal:
        """The value in the base unit, to 12 significant digits."""
        if value.is_infinite():
            return value
        return _DIGITS.plus(_EXACT.add(_EXACT.multiply(value, self.factor), self.offset))


_HUGE_POWER = re.compile(r"[A-Za-z\]*^'\"%][+-]?\d{4,}")
"""Pint works 10*99999999 out in whole numbers, for minutes."""


@lru_cache(maxsize=4096)
def canonical(code: str) -> Canonical | None:
    """How a UCUM code becomes base units; None for what is no UCUM code, is arbitrary, or runs on a logarithm."""
    if (
        not code
        or len(code) > _LONGEST
        or _HUGE_POWER.search(code)
        or any(atom in _arbitrary() for atom in _ATOM.findall(code))
    ):
        return None
    try:
        unit = _registry().from_ucum(code)
        least, next_, far = (_magnitude(unit, x) for x in (0, 1, 1000))
        base = str((1 * unit.units).to_base_units().units)
    except Exception:  # the parser, its grammar and pint each raise their own, and not always a documented one
        return None
    scale = _Decimal(unit.magnitude)
    factor = _EXACT.multiply(_Decimal(next_ - least), scale)
    if abs((far - least) - 1000 * (next_ - least)) > 1e-9 * abs(far - least) or not factor:
        return None
    return Canonical(base, factor, _Decimal(least))


@lru_cache(maxsize=4096)
def is_code(code: str) -> bool:
    """Whether a code is one of UCUM's, which a grammar tells."""
    if not code or len(code) > _LONGEST or not code.isascii():
        return False
    try:
        _parser().parse(code)
    except Exception:  # as above
        return False
    return True


@cache
def _parser() -> Any:
    from ucumvert import get_ucum_parser

    return get_ucum_parser()


def _magnitude(unit: Any, value: int) -> float:
    return float(_registry().Quantity(value, unit.units).to_base_units().magnitude)


def _Decimal(value: Any) -> Decimal:  # noqa: N802
    return _DIGITS.create_decimal(repr(float(value)))


@cache
def _arbitrary() -> frozenset[str]:
    """Units of an arbitrary scale: comparable with themselves only (UCUM 2.2 rule 24), whatever pint makes of them."""
    essence = files("ucumvert").joinpath("vendor/ucum-essence.xml").read_bytes()
    units = ElementTree.fromstring(essence).iter("{http://unitsofmeasure.org/ucum-essence}unit")  # noqa: S314
    return frozenset(unit.get("Code", "") for unit in units if unit.get("isArbitrary") == "yes")


@cache
def _registry() -> Any:
    from ucumvert import PintUcumRegistry

    return PintUcumRegistry()
