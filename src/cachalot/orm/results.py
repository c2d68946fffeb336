"""The shapes in which Django expects rows back, from an entry and into one.

A compiler returns a list of chunks of rows, one row, or a lazy iterator of chunks. An entry is a sequence of
encoded chunks, so that the rows of an iterator are encoded while they pass and never held together, and so
that a list and an iterator of the same statement are one entry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from cachalot.codecs.pickled import EncodeError, encode
from cachalot.core.decisions import Reason

if TYPE_CHECKING:
    from cachalot.conf import Config

Keep = Callable[[bytes], Reason | None]
"""Keeps encoded rows; returns why it did not."""

Report = Callable[[Reason | None], None]
"""Is told why the rows of an iterator were not kept, ``None`` if they were."""


def keep_whole(chunks: Sequence[Sequence[Any]], keep: Keep, config: Config) -> Reason | None:
    """Keep the result of a read that was fetched as a whole.

    :param chunks: its rows, in the chunks in which they came.
    :param keep: keeps the payload.
    :returns: why it was not kept, ``None`` if it was.
    """
    if sum(map(len, chunks)) > config.max_rows:
        return Reason.TOO_LARGE
    try:
        payload = b"".join(map(encode, chunks))
    except EncodeError:
        return Reason.UNENCODABLE
    return Reason.TOO_LARGE if len(payload) > config.max_bytes else keep(payload)


def collecting(
    chunks: Iterator[Sequence[Any]], keep: Keep, report: Report, config: Config
) -> Iterator[Sequence[Any]]:
    """Pass the chunks of an iterator on, and keep them if the iteration ends by itself and within bounds.

    :param keep: keeps the payload.
    :param report: is told at the end.
    """
    frames: list[bytes] = []
    left = [config.max_rows, config.max_bytes]
    reason: Reason | None = None
    ended = False
    try:
        for chunk in chunks:
            if reason is None:
                reason = _collect(chunk, frames, left)
            yield chunk
        ended = True
        reason = reason or keep(b"".join(frames))
    finally:
        close = getattr(chunks, "close", None)
        if close is not None:
            close()
        report(reason if ended else Reason.ABANDONED)


def _collect(chunk: Sequence[Any], frames: list[bytes], left: list[int]) -> Reason | None:
    """Add a chunk to the frames, unless it exceeds the rows and bytes that are left; then none are kept."""
    try:
        encoded = encode(chunk)
    except EncodeError:
        frames.clear()
        return Reason.UNENCODABLE
    left[0] -= len(chunk)
    left[1] -= len(encoded)
    if min(left) < 0:
        frames.clear()
        return Reason.TOO_LARGE
    frames.append(encoded)
    return None
