"""Tags and effects: what touches what, and how many keys a write may cost."""

from __future__ import annotations

from cachalot.core.tags import EPOCH, EVERYTHING, MAX_WRITTEN, Effects, Scope, Tag, any_of, whole_of


def row(number: int, scope: Scope = Scope.ROW) -> Tag:
    """Return the tag of a row of one table."""
    return Tag(scope, "t", ("id", f"={number}"))


def test_whole_table_touches_every_tag_of_it() -> None:
    """A write of which nothing finer is known ends what depends on any part of its table."""
    written = Effects(frozenset({"t"}))
    assert written.touches([row(1)])
    assert written.touches([Tag(Scope.COLUMN, "t", ("c",))])
    assert not written.touches([any_of("other")])
    assert written.tags() == (any_of("t"), whole_of("t"))


def test_part_touches_itself_alone() -> None:
    """A write of one row ends what depends on that row, and what depends on the table."""
    written = Effects(parts=frozenset({any_of("t"), row(1)}))
    assert written.touches([EPOCH, row(1)])
    assert written.touches([any_of("t")])
    assert not written.touches([EPOCH, row(2)])
    assert written.tables == {"t"}


def test_everything_touches_all() -> None:
    """What is not understood ends all results."""
    assert EVERYTHING.touches([row(1)])
    assert EVERYTHING.tags() == (EPOCH,)


def test_many_rows_are_one_tag() -> None:
    """Above a bound the rows of a table are told apart no more, and those of other tables still are."""
    other = Tag(Scope.ROW, "other", ("id", "=1"))
    many = Effects(parts=frozenset({row(number) for number in range(MAX_WRITTEN + 1)} | {other}))
    assert set(many.bounded().parts) == {Tag(Scope.BULK, "t", ("id",)), other}
    few = Effects(parts=frozenset({row(1), other}))
    assert few.bounded() == few


def test_rows_beside_bulk_of_their_key_are_left_out() -> None:
    """Who depends on a row by a key depends on ``bulk`` of that key."""
    bulk = Tag(Scope.BULK, "t", ("id",))
    written = Effects(parts=frozenset({bulk, row(1), row(2, Scope.MEMBER)}))
    assert set(written.bounded().parts) == {bulk}


def test_parts_of_a_table_that_is_written_as_a_whole() -> None:
    """What is known of single rows does not matter then."""
    written = Effects(frozenset({"t"}), parts=frozenset({row(1), any_of("t")}))
    assert set(written.tags()) == {any_of("t"), whole_of("t")}


def test_tags_are_shown_as_they_are_written() -> None:
    """People read the names of the documentation."""
    tags = [row(1), Tag(Scope.ROW, "t", ("a", "b", "=1", "-")), Tag(Scope.BULK, "t", ("a", "b")), EPOCH]
    assert list(map(str, tags)) == ["row(t, id=1)", "row(t, a=1, b=None)", "bulk(t, a, b)", "*"]
