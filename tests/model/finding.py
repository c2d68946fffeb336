"""Queries that find in their rows what they depend on: a book and its author, of whom there are two.

Tag 0 is the row of the book, which belongs to the one author or to the other, in turns. Tags 1 and 2 are the
rows of the authors, and tag 3 is ``any`` of their table, which each write to an author changes, too.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from cachalot.core import protocol
from cachalot.core.protocol import Answer, Found, Keys, WriteKeys
from cachalot.core.steps import Create, GetMany
from tests.model.world import (
    CLOCK,
    ENTRY,
    Draw,
    Process,
    Query,
    Read,
    Serve,
    Stored,
    Versions,
    open_entry,
    tag,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    Settle = Callable[[Keys, Mapping[str, str], tuple[str, ...], Draw], Generator[Any, Any, bytes | None]]

TAGS = 4
BOOK, ANY = tag(0), tag(3)


def found_author(books: int) -> int:
    """Return to which author the book belongs after so many writes to it: the number of his tag."""
    return 1 + books % 2


def result(versions: Versions) -> Versions:
    """Return the rows: the book, and the author that it has."""
    return versions[0], versions[found_author(versions[0])]


def keys(*guessed: int, entry: bool = True) -> Keys:
    """Return the keys of the query.

    :param guessed: the tags that it is taken to name.
    """
    passing = frozenset({BOOK, tag(1), tag(2)})
    known = tuple(map(tag, guessed))
    return Keys(ENTRY if entry else None, (BOOK,), CLOCK, loose=(ANY,), guessed=known, passing=passing)


def valid(stored: Stored, values: tuple[Any, ...], server: str) -> bool:
    """Return whether an entry would be served, given the values of all tags."""
    named = stored.more or (ANY,)
    tokens = [dict(zip(map(tag, range(TAGS)), values, strict=True))[key] for key in (BOOK, *named)]
    if not all(isinstance(token, str) and not protocol.is_mark(token) for token in tokens):
        return False
    return bool(stored.stamp == protocol.stamp((BOOK, *named), tokens, server))


def _names(names: tuple[bytes, ...]) -> tuple[str, ...]:
    return tuple(name.decode() for name in names)


@cache
def reader(*guessed: int, settle: Settle = protocol.settle) -> Process:
    """Return a process that reads the book with its author once.

    :param settle: how it learns the tokens of what it has found.
    """

    def program(draw: Draw) -> Generator[Any, Any, None]:
        yield Read()
        answer: Answer = yield from protocol.read(keys(*guessed), open_entry, draw, _names)
        if answer.found is Found.HIT and answer.entry is not None:
            yield Serve(tuple(answer.entry.payload))
        elif answer.stamp is not None:
            rows = yield Query()
            more = (tag(found_author(rows[0])),)
            stamp = yield from settle(keys(entry=False), answer.tokens, more, draw)
            # Where nobody can say so it depends on all authors, as before the query.
            found = Stored(answer.stamp, rows) if stamp is None else Stored(stamp, rows, more)
            yield from protocol.fill(ENTRY, found)  # type: ignore[arg-type]

    return Process(program)


@cache
def writer(number: int) -> Process:
    """Return a process that writes to the book, or to an author.

    :param number: of the tag of the row.
    """
    written = (0,) if number == 0 else (number, 3)
    names = tuple(map(tag, written))

    def program(draw: Draw) -> Generator[Any, Any, None]:
        yield from protocol.commit(WriteKeys(names, CLOCK, passing=frozenset({tag(number)})), draw)

    return Process(program, written)


def present(*authors: int, entry: int | None = None) -> tuple[tuple[str, Any], ...]:
    """Return tokens of the book, of all authors and of some, and perhaps an entry.

    :param authors: the tags that have a token.
    :param entry: the tag that the entry names; 3 for one that names none.
    """
    tokens = {tag(number): f"old{number}" for number in (0, *authors, 3)}
    if entry is None:
        return tuple(tokens.items())
    named = (tag(entry),) if entry != 3 else ()
    stamp = protocol.stamp((BOOK, tag(entry)), (tokens[BOOK], tokens[tag(entry)]))
    return (*tokens.items(), (ENTRY, Stored(stamp, (0, 0), named)))


# Wrong ones.


def unquestioning(
    keys: Keys, tokens: Mapping[str, str], more: tuple[str, ...], draw: Draw
) -> Generator[Any, Any, bytes | None]:
    """Read the tokens of what was found after the query, and ask nothing about the time between."""
    got = yield GetMany(more)
    if any(protocol.is_mark(got.get(key)) for key in more):
        return None
    absent = tuple((key, "+" + draw()) for key in more if key not in got)
    if absent:
        got = {**got, **(yield Create((keys.clock, draw()), absent, frozenset(more)))}
    if not all(isinstance(got.get(key), str) and not protocol.is_mark(got[key]) for key in more):
        return None
    return protocol.stamp((*keys.tags, *more), [tokens[BOOK], *(got[key] for key in more)])


def hasty(
    keys: Keys, tokens: Mapping[str, str], more: tuple[str, ...], draw: Draw
) -> Generator[Any, Any, bytes | None]:
    """Ask whether the table was written to before reading the tokens of what was found, not after."""
    now = yield GetMany(keys.loose)
    if any(now.get(key) != tokens[key] for key in keys.loose):
        return None
    return (yield from unquestioning(keys, tokens, more, draw))
