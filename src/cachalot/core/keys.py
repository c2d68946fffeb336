"""Names in the cache: which key holds what.

All keys of one physical database begin alike, whatever alias, process or project uses it: that is what lets a
write in one place end the entries made in another. The keys of tags hold nothing but the format of this file
and the identity of the database, because *every* writer must find them, also one that runs another release of
Django or of the driver in the middle of a deployment. The keys of entries hold everything that can change a
result or how it is read back.
"""

from __future__ import annotations

import os
import time
from base64 import urlsafe_b64encode
from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cachalot.core.tags import Tag

FORMAT = "c3"
"""Changes when tags of old and new releases no longer mean the same; entries have a number of their own."""


PROBE = f"{FORMAT}:probe"
"""Under this key something small is written, to see whether a cache takes it."""

MAX_TAGS = 10_000
"""Keys kept per database, so that they are not computed again."""


def digest(*parts: bytes) -> bytes:
    """Return 16 bytes that differ whenever the sequence of ``parts`` differs."""
    h = blake2b(digest_size=16)
    for part in parts:
        h.update(len(part).to_bytes(8, "big"))
        h.update(part)
    return h.digest()


def draw() -> str:
    """Return a token that was never returned before: 72 random bits, and the time for people to read.

    The time takes no part in any decision. The bits come from the system, not from a generator in the process
    that a fork would copy.
    """
    return f"{urlsafe_b64encode(os.urandom(9)).decode()}@{time.time():.6f}"


def drawn_at(token: str) -> float:
    """Return when ``token`` was drawn, in seconds since 1970 by the clock of that machine; 0.0 if unknown."""
    try:
        return float(token.rpartition("@")[2])
    except ValueError:
        return 0.0


def name_of(tag: Tag) -> bytes:
    """Return 16 bytes that stand for a tag, in every process and release."""
    parts = (tag.scope.value, tag.table, *tag.part)
    return digest(*(part.encode("utf-8", "surrogatepass") for part in parts))


class Namespace:
    """The keys of one physical database.

    :param identity: bytes that are equal exactly for the same database.
    """

    def __init__(self, identity: bytes) -> None:
        name = f"{FORMAT}:{digest(identity).hex()[:20]}"
        # Within braces: in a cluster of Redis all that a script changes must lie on one node. Entries need
        # not.
        self.root = f"{{{name}}}"
        self._entries = f"{name}:q"
        self.clock = f"{self.root}:w"
        self._tags: dict[Tag, str] = {}

    def tag(self, tag: Tag) -> str:
        """Return the key of ``tag``."""
        key = self._tags.get(tag)
        if key is None:
            if len(self._tags) > MAX_TAGS:
                self._tags.clear()
            key = self._tags[tag] = self.named(name_of(tag))
        return key

    def named(self, name: bytes) -> str:
        """Return the key of the tag whose name is ``name``; see :func:`name_of`."""
        return f"{self.root}:v:{name.hex()}"

    def all_named(self, names: Iterable[bytes]) -> tuple[str, ...]:
        """Return the keys of several tags by their names."""
        return tuple(map(self.named, names))

    def named_tag(self, name: str) -> str:
        """Return the key of a tag to which the user has given a ``name`` of his own."""
        return f"{self.root}:u:{digest(name.encode()).hex()}"

    def hold(self, tag: Tag) -> str:
        """Return the key that says that replicas may not have the last write of ``tag`` yet."""
        return f"{self.tag(tag)}:h"

    def relation(self, name: str) -> str:
        """Return the key of what the catalogue says about a relation."""
        return f"{self.root}:b:{digest(name.encode()).hex()}"

    def columns(self, table: str) -> str:
        """Return the key of what the catalogue says about the columns of a table."""
        return f"{self.root}:k:{digest(table.encode()).hex()}"

    def ever(self, tag: Tag) -> str:
        """Return the key that says that ``tag`` was invalidated at least once."""
        return f"{self.tag(tag)}:i"

    def entry(self, name: str) -> str:
        """Return the key of the entry called ``name``."""
        return f"{self._entries}:{name}"
