"""Which tags the entries name, as this process has seen them, to ask for these in the same round trip.

A guess is never an answer. The protocol compares it with what the entry itself names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from cachalot.core.keys import Namespace

MAX_GUESSES = 10_000
"""Entries of which it is remembered which tags they name."""


class Guess(NamedTuple):
    """The tags that an entry named when it was last seen.

    :param names: as they stand in the entry.
    :param keys: theirs.
    """

    names: tuple[bytes, ...]
    keys: tuple[str, ...]


class Guesses:
    """The guesses about the entries of one cache."""

    def __init__(self) -> None:
        self._guesses: dict[str, Guess] = {}

    def get(self, key: str) -> Guess | None:
        """Return what the entry under ``key`` named, if it is known."""
        return self._guesses.get(key)

    def note(self, space: Namespace, query: str, names: tuple[bytes, ...]) -> None:
        """Remember which tags the entry of a query names.

        :param query: its name.
        """
        key = space.entry(query)
        if key in self._guesses and self._guesses[key].names == names:
            return
        if len(self._guesses) > MAX_GUESSES:
            self._guesses.clear()
        self._guesses[key] = Guess(names, space.all_named(names))

    def keys_of(self, space: Namespace, query: str, names: tuple[bytes, ...]) -> tuple[str, ...]:
        """Return the keys of the tags that the entry of a query names."""
        guess = self._guesses.get(space.entry(query))
        return guess.keys if guess is not None and guess.names == names else space.all_named(names)
