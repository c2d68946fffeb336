"""Two results of one statement: what is a difference and what is not."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachalot.codecs.comparing import Order, difference
from cachalot.codecs.pickled import decode, encode

NAN = float("nan")


class Plain:
    """A type of somebody else that does not say what is equal."""

    def __init__(self, value):
        self.value = value


class Equal(Plain):
    """It says what is equal, and so cannot be hashed."""

    def __eq__(self, other):
        return isinstance(other, Equal) and self.value == other.value

    __hash__ = None


class Unstorable(Equal):
    """It can neither be hashed nor pickled."""

    def __reduce__(self):
        raise RuntimeError


def kept(rows):
    """Rows as an entry gives them back."""
    return decode(encode(rows))


CELLS = [
    None,
    True,
    1,
    1.5,
    NAN,
    Decimal("1.50"),
    Decimal("NaN"),
    Decimal("sNaN"),
    "text",
    b"bytes",
    memoryview(b"view"),
    bytearray(b"array"),
    dt.datetime(2024, 1, 1, tzinfo=dt.timezone.utc),
    dt.datetime(2024, 1, 1),  # noqa: DTZ001 - databases without time zones return these
    [1, [2, {"deep": [None, NAN]}]],
    {"a": [1], "b": {"c": {1, 2}}},
    {1, 2},
    (1, "two"),
    Plain([1]),
    Equal([1]),
]


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"{type(cell).__name__}")
@pytest.mark.parametrize("order", Order)
def test_result_equals_itself(cell, order):
    """What was stored and read back is no difference, whatever a cell holds, and in any order."""
    rows = [(1, cell), (2, cell), (1, cell)]
    assert difference(kept(rows), rows, order) == ""
    if order is not Order.FIXED:
        assert difference(kept(rows), rows[::-1], order) == ""


@pytest.mark.parametrize("order", [Order.FIXED, Order.ANY])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (1, True),
        (1, 1.0),
        (1, Decimal(1)),
        (0.0, NAN),
        (None, NAN),
        ("1", b"1"),
        (b"a", memoryview(b"a")),
        (memoryview(b"a"), memoryview(b"b")),
        ([1, 2], [2, 1]),
        ([1], (1,)),
        ({"a": 1}, {"a": True}),
        ({"a": [1]}, {"a": [2]}),
        (Plain([1]), Plain([2])),
        (Equal([1]), Equal([2])),
        (Equal([1]), Plain([1])),
    ],
    ids=str,
)
def test_cells_differ_in_value_and_type(before, after, order):
    """Equal by ``==`` is not enough: a column of another type is another result."""
    said = difference(kept([(7, before)]), [(7, after)], order)
    assert said == "1 of 1 rows differ (column 2 of the statement)"


def test_number_of_rows_is_compared_in_every_order():
    """Fewer, more, none."""
    for order in Order:
        assert difference([(1,)], [], order) == "1 rows were kept, the database has 0"
        assert difference([(1,)], [(1,), (1,)], order) == "1 rows were kept, the database has more"
        assert difference([], [], order) == ""


def test_order_counts_where_there_is_one():
    """The same rows another way round."""
    rows = [(1,), (2,), (2,)]
    assert difference(rows, rows[::-1], Order.FIXED) == "the same rows in another order"
    assert difference(rows, rows[::-1], Order.ANY) == ""
    assert difference(rows, [(1,), (1,), (2,)], Order.ANY) == "1 of 3 rows differ (column 1 of the statement)"


def test_arbitrary_rows_are_only_counted():
    """Which rows come is the choice of the database."""
    assert difference([(1,)], [(2,)], Order.ARBITRARY) == ""


def test_columns_are_told_where_rows_can_be_matched():
    """All columns that differ, unless rows have moved or are none."""
    before = [(1, "a", 0), (2, "b", 0), (3, "c", 0)]
    said = difference(before, [(1, "x", 0), (2, "b", 0), (3, "c", 9)], Order.ANY)
    assert said == "2 of 3 rows differ (column 2, 3 of the statement)"
    assert difference(before, [(3, "c", 0), (2, "b", 0), (1, "x", 0)], Order.ANY) == "1 of 3 rows differ"
    assert difference([None], [(1,)], Order.FIXED) == "1 of 1 rows differ"


def test_way_of_a_row_is_no_difference():
    """Drivers and Django make rows of lists or of tuples."""
    assert difference([[1, "a"]], [(1, "a")], Order.FIXED) == ""


def test_cell_that_cannot_be_compared_is_a_value_error():
    """The caller knows then that nothing was found out."""
    with pytest.raises(ValueError, match="cannot be pickled"):
        difference([(Unstorable(1),)], [(Unstorable(1),)], Order.FIXED)


CELL = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.decimals(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(st.lists(st.lists(CELL, min_size=2, max_size=2), max_size=8), st.randoms(use_true_random=False), CELL)
def test_shuffled_rows_are_the_same_set(rows, shuffle, cell):
    """No order of the same rows is a difference to a set, and one cell more always is."""
    moved = list(rows)
    shuffle.shuffle(moved)
    assert difference(kept(rows), moved, Order.ANY) == ""
    assert difference(kept(rows), rows, Order.FIXED) == ""
    if rows:
        place = shuffle.randrange(len(moved))
        moved[place] = [*moved[place], cell]
        assert difference(kept(rows), moved, Order.ANY).startswith("1 of ")
