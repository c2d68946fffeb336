"""Tags that are found in the rows of a result: the entry names them, and nothing stale is served for it."""

from __future__ import annotations

import pytest

from tests.model.finding import TAGS, hasty, present, reader, result, unquestioning, valid, writer
from tests.model.test_verdicts import goes, holds
from tests.model.world import Exchange

WORLD = {"tags": TAGS, "result": result, "valid": valid}
FROM = {
    "no tokens": (),
    "tokens": present(1, 2),
    "one author is unknown": present(1),
    "entry that names its author": present(1, 2, entry=1),
    "entry of all authors": present(1, 2, entry=3),
}


@pytest.mark.parametrize("first", FROM.values(), ids=FROM)
@pytest.mark.parametrize("written", [0, 1, 2], ids=["book", "its author", "the other author"])
def test_one_writer(search, first, written):
    """One write to the book or an author, two readers, a crash and a commit that comes late."""
    holds(search(writer(written), reader(), reader(1), present=first, **WORLD, crashes=1, lost=1))


@pytest.mark.parametrize("written", [1, 2], ids=["its author", "the other author"])
def test_evicted_keys(search, written):
    """A token that is gone is drawn anew, and what was stored under it with it."""
    first = present(1, 2, entry=1)
    holds(search(writer(written), reader(1), reader(1), present=first, **WORLD, evictions=1))


@pytest.mark.parametrize("pair", [(0, 1), (0, 2), (1, 2), (1, 1)], ids=str)
def test_two_writers(search, pair):
    """The book moves while its author, or the one to come, changes."""
    writers = map(writer, pair)
    holds(search(*writers, reader(), reader(1), present=present(1, 2, entry=1), crashes=1, **WORLD))


@pytest.mark.parametrize("exchange", [Exchange.ONE_BY_ONE, Exchange.ENTRY_LAST])
@pytest.mark.parametrize("written", [0, 1, 2], ids=["book", "its author", "the other author"])
def test_keys_one_by_one(search, exchange, written):
    """Tokens of rows are read before that of their table, so who has read a new one sees that, too."""
    world = {**WORLD, "exchange": exchange, "present": present(1, 2)}
    holds(search(writer(written), reader(), reader(1), **world))


def test_guess_that_was_wrong(search):
    """An entry that names another author than the one whose token was read is looked at again."""
    holds(search(writer(0), reader(), reader(2), present=present(1, 2, entry=1), **WORLD))


def test_token_of_the_author_read_after_the_query(search):
    """Wrong: rows from before a commit get the token from after it, and stay for good."""
    found = search(writer(1), reader(settle=unquestioning), reader(), present=present(1, 2), **WORLD)
    goes(found.g1, "R1 queries (0, 0)", "W0 commits", "W0 done", "R1 reads tag1", "R1 stores entry")
    assert found.g2


def test_table_asked_before_the_author(search):
    """Wrong: between the two questions there is room for a whole commit."""
    found = search(writer(1), reader(settle=hasty), reader(), present=present(1, 2), **WORLD)
    goes(found.g1, "R1 reads tag3", "W0 commits", "R1 reads tag1", "R1 stores entry")
