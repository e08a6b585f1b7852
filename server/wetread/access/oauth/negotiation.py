"""What comes of the scopes that a client asks for: never more than it is registered for, nor than the person may."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from wetread.access.clients.clients import Client
from wetread.access.clients.registration import is_resource_scope
from wetread.access.rights import narrowed
from wetread.domain.reader import Scope
from wetread.errors import InvalidInput
from wetread.record.scopes import checked_scopes

_V1 = {"rs": "read", "cud": "write", "cruds": "*"}


def negotiated(
    asked: Iterable[str], client: Client, held: Iterable[Scope] | None, levels: Collection[str], words: Collection[str]
) -> Mapping[str, tuple[str, ...]]:
    """Each word asked for, with what of it can be given: nothing, itself, or the narrower scopes within it.

    `held` are the person's rights, None where no person stands behind; `levels` those that this flow can give (`user`,
    `patient`, `system`), `words` what else it can (`openid`, `launch/patient`). A word that SMART does not know, and a
    scope that cannot be kept here (`record.scopes`), is passed over (RFC 6749 3.3). Who asked in the words of SMART 1
    is answered in them (SMART App Launch 2.2 scopes-and-launch-context.html#scopes-for-requesting-fhir-resources).
    """
    rights = None if held is None else tuple(held)
    return {
        word: _scopes(word, client, rights, levels) if is_resource_scope(word) else _word(word, client, words)
        for word in dict.fromkeys(asked)
    }


def joined(given: Iterable[tuple[str, ...]]) -> str:
    """One scope parameter, each word once."""
    return " ".join(dict.fromkeys(word for words in given for word in words))


def resource_scopes(scope: str) -> tuple[Scope, ...]:
    """Those of a scope parameter that open resources."""
    return tuple(Scope.parse(word) for word in scope.split() if is_resource_scope(word))


def _word(word: str, client: Client, words: Collection[str]) -> tuple[str, ...]:
    return (word,) if word in words and word in client.words else ()


def _scopes(word: str, client: Client, held: tuple[Scope, ...] | None, levels: Collection[str]) -> tuple[str, ...]:
    try:
        [wish] = checked_scopes([Scope.parse(word)])
    except InvalidInput:
        return ()
    if wish.level not in levels:
        return ()
    within = narrowed((wish,), client.scopes)
    pieces = within if held is None else narrowed(within, held)
    if wish in pieces:
        return (word,)
    is_v1 = not wish.constraint and word.rpartition(".")[2] in _V1.values()
    return tuple(dict.fromkeys(_text(piece, v1=is_v1) for piece in _widest(pieces)))


def _widest(pieces: Iterable[Scope]) -> list[Scope]:
    """Without those that another one covers."""
    all_of_them = list(dict.fromkeys(pieces))
    return [p for p in all_of_them if not any(other != p and narrowed((p,), (other,)) == (p,) for other in all_of_them)]


def _text(scope: Scope, *, v1: bool) -> str:
    letters = "".join(letter for letter in "cruds" if letter in scope.letters)
    if v1 and not scope.constraint and letters in _V1:
        return f"{scope.level}/{scope.resource_type}.{_V1[letters]}"
    return str(scope)
