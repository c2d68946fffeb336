"""Rows survive being bytes, and bad bytes raise one error."""

from __future__ import annotations

import copyreg
import datetime as dt
import ipaddress
import math
import pickle
import struct
import sys
import threading
import uuid
from decimal import Decimal
from types import ModuleType
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachalot.codecs.pickled import DecodeError, EncodeError, decode, decode_all, encode

ZONES = st.sampled_from([None, dt.timezone.utc, dt.timezone(dt.timedelta(hours=-3))]) | st.sampled_from(
    [ZoneInfo("Europe/Paris"), ZoneInfo("UTC")]
)


def ranges() -> st.SearchStrategy[Any]:
    """Return the ranges of the drivers that are installed."""
    found: list[st.SearchStrategy[Any]] = [st.none()]
    for module, names in {
        "psycopg.types.range": ["Range", "Int4Range"],
        "psycopg2.extras": ["NumericRange", "DateRange"],
    }.items():
        try:
            __import__(module)
        except ImportError:
            continue
        classes = [getattr(sys.modules[module], name) for name in names]
        found.append(
            st.builds(
                lambda cls, lower, upper, bounds: cls(lower, upper, bounds),
                st.sampled_from(classes),
                st.none() | st.integers(),
                st.none() | st.integers(),
                st.sampled_from(["[)", "[]"]),
            )
        )
    return st.one_of(*found)


CELLS = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(),
        st.binary(),
        st.binary().map(memoryview),
        st.binary().map(bytearray),
        st.decimals(),
        st.uuids(),
        st.dates(),
        st.timedeltas(),
        st.builds(dt.datetime.replace, st.datetimes(), tzinfo=ZONES, fold=st.integers(0, 1)),
        st.times(),
        st.ip_addresses(),
        ranges(),
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)


def same(a: Any, b: Any) -> bool:
    """Return whether two cells are equal in type and value."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return struct.pack("d", a) == struct.pack("d", b) or (math.isnan(a) and math.isnan(b))
    if isinstance(a, Decimal):
        return a.as_tuple() == b.as_tuple()
    if isinstance(a, dt.datetime):
        zone, other = a.tzinfo, b.tzinfo
        return a.replace(tzinfo=None) == b.replace(tzinfo=None) and a.fold == b.fold and zone == other
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return same(list(a.items()), list(b.items()))
    return bool(a == b)


class Fragile:
    """A value whose state can be refused."""

    def __setstate__(self, state: object) -> None:
        raise KeyError("gone")


class TestRoundTrip:
    """What comes out equals what went in."""

    @given(CELLS)
    def test_any_cell(self, cell: Any) -> None:
        """A decoded value equals the encoded one in type and in value."""
        assert same(decode(encode(cell)), cell)

    @given(st.lists(st.lists(st.tuples(CELLS, CELLS), max_size=3), max_size=4))
    def test_chunks_one_after_the_other(self, chunks: list[Any]) -> None:
        """Frames that are joined come back as the same chunks, in order."""
        assert same(decode_all(b"".join(map(encode, chunks))), chunks)

    def test_none_is_a_value(self) -> None:
        """A cached None is not a missing value, and no frame is not None."""
        assert decode(encode(None)) is None
        assert decode_all(b"") == []

    def test_memoryview_leaves_the_process_alone(self) -> None:
        """A memoryview comes back as one, and nothing is registered for the rest of the process."""
        before = dict(copyreg.dispatch_table)
        (row,) = decode(encode([(1, memoryview(b"ab"), [memoryview(b"c")])]))  # type: ignore[misc]
        assert row == (1, memoryview(b"ab"), [memoryview(b"c")])
        assert [type(row[1]), type(row[2][0])] == [memoryview, memoryview]
        assert copyreg.dispatch_table == before
        with pytest.raises(TypeError):
            pickle.dumps(memoryview(b"ab"))

    def test_slice_of_a_memoryview(self) -> None:
        """Only the bytes that are seen are stored."""
        assert decode(encode(memoryview(b"abcdef")[1:6:2])) == memoryview(b"bdf")

    def test_each_decoding_gives_its_own(self) -> None:
        """A caller who changes a list in a row changes it for nobody else."""
        data = encode([([1],)])
        first: Any = decode(data)
        first[0][0].append(2)
        assert decode(data) == [([1],)]


class TestEncodeError:
    """What cannot be stored raises one error."""

    @pytest.mark.parametrize(
        "value",
        [threading.Lock(), lambda: None, (memoryview(b"a"), threading.Lock()), memoryview(b"abcd").cast("I")],
        ids=["lock", "lambda", "view and lock", "view of integers"],
    )
    def test_values_that_cannot_be_pickled(self, value: Any) -> None:
        """Any failure of pickling is an EncodeError."""
        with pytest.raises(EncodeError):
            encode(value)

    def test_nesting_without_end(self) -> None:
        """A RecursionError is an EncodeError too."""
        value: list[Any] = []
        for _ in range(200_000):
            value = [value]
        with pytest.raises(EncodeError):
            encode(value)
        while value:  # taken apart by hand: the destructor would recurse as deep
            value = value[0]


class TestDecodeError:
    """What is not ours, or no longer is, raises one error."""

    @given(CELLS, st.data())
    def test_cut_short(self, cell: Any, data: st.DataObject) -> None:
        """No beginning of a frame is a frame."""
        frame = encode(cell)
        with pytest.raises(DecodeError):
            decode(frame[: data.draw(st.integers(0, len(frame) - 1))])

    @given(CELLS, st.binary(min_size=1, max_size=3))
    def test_more_than_one_frame(self, cell: Any, rest: bytes) -> None:
        """Bytes after the frame, a second frame included, are an error for decode."""
        for extra in (rest, encode(cell)):
            with pytest.raises(DecodeError):
                decode(encode(cell) + extra)

    @pytest.mark.parametrize(
        "data", [b"", b"\x00", b"\x00" * 4, b"\x00\x00\x00\x01x", b"\xff" * 9, None, 1, "text"], ids=repr
    )
    def test_foreign_values(self, data: Any) -> None:
        """Empty, foreign and wrongly typed values raise the same error."""
        with pytest.raises(DecodeError):
            decode(data)

    def test_class_that_is_gone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A class that moved, a module that is gone and a class that refuses its state raise one error."""
        module = ModuleType("module_of_yesterday")
        cls = type("Gone", (), {"__module__": module.__name__})
        module.Gone = cls  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        data = encode(cls())
        del module.Gone  # type: ignore[attr-defined]
        with pytest.raises(DecodeError, match="AttributeError"):
            decode(data)
        monkeypatch.delitem(sys.modules, module.__name__)
        with pytest.raises(DecodeError, match="ModuleNotFoundError"):
            decode(data)
        fragile = Fragile()
        vars(fragile)["field"] = 1
        with pytest.raises(DecodeError, match="KeyError"):
            decode(encode(fragile))

    def test_known_values_of_the_standard_library(self) -> None:
        """Types of rows that are neither numbers nor text."""
        row = (uuid.UUID(int=1), ipaddress.ip_interface("10.0.0.1/8"), Decimal("1.50"), dt.timedelta(1))
        assert same(decode(encode([row])), [row])
