"""Rows: a DONE that removes a token is as good as one that replaces it, whatever dies, ends or is evicted."""

from __future__ import annotations

import pytest

from tests.model.processes import reader, snapshot_reader, stored, tokens, writer
from tests.model.test_verdicts import ACCIDENTS, goes, holds
from tests.model.world import Exchange

REMOVES = {"removes": True}


@pytest.mark.parametrize("present", [(), tokens(), stored()], ids=["absent", "tokens", "entry"])
def test_one_writer(search, present):
    """Row "intent set + crash, DONE deletes the token": nothing is wrong."""
    holds(search(writer(**REMOVES), reader(), reader(), present=present, **ACCIDENTS))


def test_two_and_three_writers(search):
    """Commits that overlap: the last one removes the token."""
    holds(search(writer(**REMOVES), writer(**REMOVES), reader(), reader(), present=stored()))
    three = (writer(**REMOVES), writer(**REMOVES), writer(**REMOVES))
    holds(search(*three, reader(), reader(), present=tokens()))


def test_beside_a_writer_that_replaces(search):
    """A token that one removes and another replaces."""
    holds(search(writer(**REMOVES), writer(), reader(), reader(), present=stored(), crashes=1))


def test_crashes_of_two_writers(search):
    """Leases end, each its own, and leave nothing, like a DONE."""
    holds(search(writer(**REMOVES), writer(**REMOVES), reader(), reader(), present=tokens(), crashes=2))


def test_evicted_mark(search):
    """A window until the DONE of the writer whose mark was lost, as before."""
    found = search(writer(**REMOVES), reader(), reader(), present=tokens(), marks=1)
    assert found.g1 == []
    goes(found.g2, "W0 marks", "mark of tag0 is evicted", "R1 queries (0,)", "W0 commits")


def test_two_tags_one_by_one(search):
    """Marks in opposite orders, keys read and written one by one, and a crash."""
    writers = (writer(0, 1, **REMOVES), writer(1, 0, **REMOVES))
    world = {"tags": 2, "present": stored(2), "exchange": Exchange.ONE_BY_ONE}
    holds(search(*writers, reader(2), **world, crashes=1))


@pytest.mark.parametrize("present", [(), tokens(), stored()], ids=["absent", "tokens", "entry"])
def test_snapshot(search, present):
    """A reader in a snapshot is not misled by what looks like the end of a lease."""
    processes = (writer(**REMOVES), snapshot_reader(), reader())
    holds(search(*processes, present=present, crashes=1, lost=1, short=True))
