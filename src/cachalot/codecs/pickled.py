"""Rows as pickles, in frames that can follow one another.

A frame is the length of a pickle (4 bytes, big-endian) and the pickle, protocol 5. The chunks of an iterator
are encoded one by one while they pass, and their frames joined are the payload. What comes out equals what
went in, in type and in value; what cannot be stored or read back raises, and nothing else than the two errors
below.

Reading a pickle runs code: only bytes whose seal was checked (``core/envelope.py``) may be given to the
decoders.
"""

from __future__ import annotations

import io
import pickle
import struct
from typing import Any

PROTOCOL = 5
_LENGTH = struct.Struct(">I")


class EncodeError(ValueError):
    """The value cannot be stored.

    .. versionadded:: 3.0
    """


class DecodeError(ValueError):
    """The bytes are not what an encoder made, or what they name is no longer there.

    .. versionadded:: 3.0
    """


def encode(value: object) -> bytes:
    """Return ``value`` as one frame.

    :param value: rows, or anything that can be pickled.
    :raises EncodeError: if it cannot be pickled, for whatever reason.

    .. versionadded:: 3.0
    """
    try:
        try:
            data = pickle.dumps(value, PROTOCOL)
        except TypeError:  # what psycopg2 gives for a BinaryField is a memoryview
            data = _dumps_with_views(value)
        return _LENGTH.pack(len(data)) + data
    except Exception as error:
        raise EncodeError(f"cannot be pickled: {error}") from error


def decode(data: bytes) -> object:
    """Return the value of exactly one frame.

    :param data: what :func:`encode` returned.
    :raises DecodeError: for anything else, and if a class of the value cannot be found or refuses its state.

    .. versionadded:: 3.0
    """
    values = decode_all(data)
    if len(values) != 1:
        raise DecodeError(f"{len(values)} frames instead of one")
    return values[0]


def decode_all(data: bytes) -> list[object]:
    """Return the values of all frames, in order.

    :param data: any number of frames, joined.
    :raises DecodeError: as :func:`decode`.

    .. versionadded:: 3.0
    """
    try:
        return _loads_all(data)
    except DecodeError:
        raise
    except Exception as error:  # a class that moved, a field that is gone: any error may come from a pickle
        raise DecodeError(f"cannot be read back: {type(error).__name__}: {error}") from error


def _loads_all(data: bytes) -> list[object]:
    view = memoryview(data)
    values = []
    start, end = 0, len(view)
    while start < end:
        (length,) = _LENGTH.unpack_from(view, start)
        start += _LENGTH.size
        if length > end - start:
            raise DecodeError("cut short")
        values.append(pickle.loads(view[start : start + length]))  # noqa: S301 - the seal was checked before
        start += length
    return values


class _ViewPickler(pickle.Pickler):
    """A pickler for memoryviews, which does not change how the rest of the process pickles."""

    def reducer_override(self, obj: Any) -> Any:
        """Return how to rebuild ``obj``, if it is a memoryview."""
        if type(obj) is not memoryview:
            return NotImplemented
        if obj.format not in {"B", "c"} or obj.ndim != 1:
            raise pickle.PicklingError("a memoryview of something else than bytes")
        # psycopg2 gives views of characters, which are bytes all the same.
        return _view, (obj.tobytes(), obj.format)


def _view(data: bytes, form: Any) -> Any:
    return memoryview(data).cast(form)


def _dumps_with_views(value: object) -> bytes:
    buffer = io.BytesIO()
    _ViewPickler(buffer, PROTOCOL).dump(value)
    return buffer.getvalue()
