"""One execution for many simultaneous misses of one query: in this process, and over processes for a while.

Whoever misses first runs the query. Other threads of the process that miss the same one wait until it is
done, then look again: what they are served is validated by tokens that they have read themselves, so it is as
fresh as if nobody had been waited for. They never wait inside a transaction, where the first could be waiting
for one of their locks, and never for a result that was not kept.

The first of each process asks for a short lease in the cache (``CACHALOT_FILL_LEASE``), on the query and the
tokens under which its result would be stored: once a write has changed them there is another one to ask for.
Who does not get it looks for the result of the other process, for no longer than the query took when its last
result was stored, and then runs it (compare the leases of memcached; Nishtala et al., NSDI 2013).
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cachalot.core.steps import Add, Lifetime
from cachalot.stores.base import StoreAway

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cachalot.engine.guard import Guard
    from cachalot.engine.lookups import Lookup

LONGEST_WAIT = 30.0
"""Seconds after which the first is taken for lost."""

ATTEMPTS = 3
"""How often a thread waits for another, while writes end what was stored."""

POLL_SECONDS = 0.005

Key = tuple[str, str]


class Turn:
    """A query that is being run.

    :ivar kept: whether its rows were stored, so that it is worth while to look for them.
    """

    def __init__(self) -> None:
        self.kept = False
        self.thread = threading.get_ident()
        self._over = threading.Event()

    def wait(self) -> bool:
        """Wait until it is over, never for oneself, and return whether it was not given up."""
        return self.thread == threading.get_ident() or self._over.wait(LONGEST_WAIT)

    def end(self) -> None:
        """Let those who wait go on."""
        self._over.set()


_turns: dict[Key, Turn] = {}
_lock = threading.Lock()


def _begin_anew() -> None:
    """A forked process runs none of the queries of its parent."""
    global _lock  # noqa: PLW0603 - a thread of the parent may have held it
    _lock = threading.Lock()
    _turns.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


@contextmanager
def turn(key: Key) -> Iterator[tuple[Turn, bool]]:
    """Take one's turn at a query.

    :param key: alias of the cache and key of the entry.
    :returns: a context manager whose value is the turn, and whether it is one's own. If it is not, it is
        over.
    """
    mine = Turn()
    running = _turns.setdefault(key, mine)
    if running is not mine:
        if not running.wait():
            _forget(key, running)
        yield running, False
        return
    try:
        yield mine, True
    finally:
        mine.end()
        _forget(key, mine)


def _forget(key: Key, lost: Turn) -> None:
    """Let the next one have a turn; somebody else may have taken it already."""
    with _lock:
        if _turns.get(key) is lost:
            del _turns[key]


def after_other_processes(
    guard: Guard, key: str, lookup: Lookup, look: Callable[[], Lookup], lease: float
) -> Lookup:
    """Look for the result of another process that is running the same query.

    :param key: of the entry.
    :param lookup: the miss.
    :param look: looks again.
    :param lease: ``CACHALOT_FILL_LEASE``, in seconds.
    :returns: a hit, or the last miss, after which the query is to be run.
    """
    try:
        if not lease or guard.ask(Add(_lease_key(key, lookup), "1", Lifetime.FILL)):
            return lookup
    except StoreAway:
        return lookup
    end = time.monotonic() + min(lease, lookup.saved)
    while time.monotonic() < end:
        time.sleep(POLL_SECONDS)
        lookup = look()
        if lookup.frames is not None or lookup.ticket is None:
            break
    return lookup


def _lease_key(key: str, lookup: Lookup) -> str:
    """Return the key of the lease on storing a result under the tokens that were just read."""
    stamp = b"" if lookup.ticket is None else lookup.ticket.stamp or b""
    return f"{key}:f:{stamp.hex()}"
