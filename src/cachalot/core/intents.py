"""Marks that are sets of intents: each writer in flight on a tag, with the end of its own lease.

    "!" (writer ";" end ",")*

A mark that only counted, or whose leases ended together, would let the intent of a dead writer live as long
as other writers keep coming.
"""

from __future__ import annotations

from cachalot.core.protocol import MARK, is_mark


def intents(value: object) -> dict[str, int]:
    """Return the writers in a mark and when their leases end; none for a value that is no mark."""
    if not isinstance(value, str) or not is_mark(value):
        return {}
    pairs = (intent.rpartition(";") for intent in value[len(MARK) :].split(",") if intent)
    return {writer: int(end) for writer, _, end in pairs if writer and end.isdecimal()}


def marked(live: dict[str, int]) -> str:
    """Return the mark that holds these intents."""
    return MARK + "".join(f"{writer};{end}," for writer, end in live.items())


def marked_by(value: object, writer: str, now: int, end: int) -> str:
    """Return the mark after a writer has come, dead intents left out.

    :param now: the time, in the unit of ``end``.
    :param end: when the lease of the writer ends.
    """
    return marked({**_others(value, writer, now), writer: end})


def left_by(value: object, writer: str, now: int) -> tuple[str | None, bool]:
    """Return the mark that is left after a writer has gone, ``None`` if none is, and whether it was there."""
    others = _others(value, writer, now)
    return (marked(others) if others else None), writer in intents(value)


def _others(value: object, writer: str, now: int) -> dict[str, int]:
    return {one: end for one, end in intents(value).items() if end > now and one != writer}
