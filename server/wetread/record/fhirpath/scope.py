"""What a FHIRPath expression is evaluated with, and how much it may cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from wetread.record.fhirpath import values
from wetread.record.fhirpath.values import Items, Node

MOST_COMPARISONS = 500_000
"""About a second."""
_MOST_CHARACTERS = 10_000_000
"""Of a text that an expression makes: more than a body may have of one, less than hurts."""


class Undecided(Exception):
    """An expression cannot be applied to these values: the language calls it an error."""


@dataclass(slots=True)
class Scope:
    """What an expression sees besides its input. `this` is `$this`, as a collection."""

    root: Node
    resource: Node
    context: Node
    this: Items
    index: int = 0
    total: Items = field(default_factory=list)
    known: dict[int, Items] = field(default_factory=dict)
    """What paths from `%resource` and from what is `given` gave, which is the same wherever they stand."""
    comparisons: int = 0
    given: Mapping[str, Items] = field(default_factory=dict)
    """What `syntax.Given` stands for, by its name."""

    def compares(self, left: Items, right: Items) -> None:
        """Counts what every item with every other costs. Raises Undecided where it is too much."""
        self.comparisons += len(left) * len(right)
        if self.comparisons > MOST_COMPARISONS:
            raise Undecided("too many items to compare")


Evaluate: TypeAlias = Callable[[Items, Scope], Items]


def bounded(text: str, added: int = 0) -> str:
    """The text, where it is not too long to go on with when so many characters come to it. Raises Undecided."""
    if len(text) + added > _MOST_CHARACTERS:
        raise Undecided("the text becomes too long")
    return text


def truth(items: Items) -> bool | None:
    """A collection where a boolean is expected: one item of another kind counts as true (FHIRPath 4.5)."""
    if not items:
        return None
    if len(items) > 1:
        raise Undecided("one item was expected")
    value = values.plain(items[0])
    return value if isinstance(value, bool) else True


def single(items: Items) -> Any:
    """The value of the one item; None for none. Raises Undecided."""
    if len(items) > 1:
        raise Undecided("one item was expected")
    return values.plain(items[0]) if items else None
