"""The judge of histories: what is right is accepted, and every kind of wrong is refused."""

from __future__ import annotations

import random
from itertools import permutations

import pytest

from tests.faults.linearizability import (
    NEVER,
    Operation,
    SearchTooLarge,
    check_list,
    check_register,
)


def read(value, invoked, responded, **more):
    """A read."""
    return Operation("read", value, invoked, responded, **more)


def write(value, invoked, responded=NEVER):
    """A write that may have happened, if it has no response."""
    return Operation("write", value, invoked, responded)


def add(value, invoked, responded=NEVER, old=None):
    """An addition."""
    return Operation("add", value, invoked, responded, old)


def append(value, invoked, responded=NEVER):
    """One more element."""
    return Operation("append", value, invoked, responded)


GOOD = {
    "nothing": [],
    "one after the other": [read(0, 0, 1), write(5, 2, 3), read(5, 4, 5)],
    "a read beside a write may see the old": [write(5, 0, 10), read(0, 1, 2), read(5, 3, 4)],
    "a read beside a write may see the new": [write(5, 0, 10), read(5, 1, 2)],
    "two writes in either order": [write(5, 0, 10), write(6, 0, 10), read(6, 11, 12)],
    "additions under a lock, in the order they tell": [add(1, 0, 9, old=1), add(1, 0, 9, old=0)],
    "additions": [add(1, 0, 3), add(1, 0, 3), read(1, 1, 2), read(2, 4, 5)],
    "it may have happened": [write(5, 0), read(0, 1, 2), read(5, 3, 4)],
    "it may have happened late": [write(5, 0), write(6, 1, 2), read(6, 3, 4), read(5, 5, 6)],
    "it may never have happened": [write(5, 0), read(0, 1, 2), read(0, 3, 4)],
    "one of two may have happened": [add(1, 0), add(1, 0), read(1, 1, 2), read(1, 3, 4)],
    "both of two may have happened": [add(1, 0), add(1, 5), read(1, 1, 2), read(2, 6, 7)],
    "a snapshot may be as old as its transaction": [write(5, 1, 2), read(5, 3, 4), read(0, 0, 6)],
}
BAD = {
    "stale after a write": [write(5, 0, 1), read(0, 2, 3)],
    "stale after another read": [write(5, 0, 10), read(5, 1, 2), read(0, 3, 4)],
    "never written": [write(5, 0, 1), read(7, 0, 2)],
    "before it was written": [read(5, 0, 1), write(5, 2, 3)],
    "a lost addition": [add(1, 0, 1), add(1, 2, 3), read(1, 4, 5)],
    "an addition that came twice": [add(1, 0, 1), read(2, 2, 3)],
    "two additions to the same number": [add(1, 0, 9, old=0), add(1, 0, 9, old=0)],
    "a lost write": [write(5, 0, 1), write(6, 2, 3), read(5, 4, 5)],
    "it has happened and then it has not": [write(5, 0), read(5, 1, 2), read(0, 3, 4)],
    "it has happened before it was asked for": [read(5, 0, 1), write(5, 2)],
    "it has happened twice": [add(1, 0), read(2, 1, 2)],
    "more than may have happened": [add(1, 0), add(1, 5), read(2, 1, 2)],
    "a snapshot older than its transaction": [write(5, 0, 1), read(0, 2, 9)],
    "a resurrected value": [write(5, 0, 1), write(6, 2, 3), read(6, 4, 5), read(5, 6, 7)],
}


@pytest.mark.parametrize("name", GOOD)
def test_register_is_accepted(name):
    """There is an order that explains every answer."""
    assert check_register(GOOD[name], 0) is None


@pytest.mark.parametrize("name", BAD)
def test_register_is_refused(name):
    """There is no order that explains every answer."""
    assert check_register(BAD[name], 0) is not None


GOOD_LISTS = {
    "nothing": ([], ()),
    "one after the other": ([append(1, 0, 1), append(2, 2, 3), read((1, 2), 4, 5)], (1, 2)),
    "beside each other": ([append(1, 0, 9), append(2, 0, 9), read((2,), 1, 2), read((), 0, 5)], (2, 1)),
    "it may have happened": ([append(1, 0), append(2, 1, 2), read((1, 2), 3, 4)], (1, 2)),
    "it may never have happened": ([append(1, 0), append(2, 1, 2), read((2,), 3, 4)], (2,)),
}
BAD_LISTS = {
    "lost": ([append(1, 0, 1), append(2, 2, 3)], (2,)),
    "lost after it was read": ([append(1, 0), read((1,), 1, 2)], ()),
    "stale": ([append(1, 0, 1), append(2, 2, 3), read((1,), 4, 5)], (1, 2)),
    "stale after another read": ([append(1, 0, 9), read((1,), 1, 2), read((), 3, 4)], (1,)),
    "from the future": ([read((1,), 0, 1), append(1, 2, 3)], (1,)),
    "resurrected": ([append(1, 0, 1), read((), 2, 3), read((1,), 4, 5)], (1,)),
    "another order": ([append(1, 0, 9), append(2, 0, 9), read((1, 2), 10, 11)], (2, 1)),
    "appended in the wrong order": ([append(1, 0, 1), append(2, 2, 3)], (2, 1)),
    "twice": ([append(1, 0, 1)], (1, 1)),
    "by nobody": ([append(1, 0, 1)], (1, 2)),
}


@pytest.mark.parametrize("name", GOOD_LISTS)
def test_list_is_accepted(name):
    """There is an order that explains every answer."""
    assert check_list(*GOOD_LISTS[name]) is None


@pytest.mark.parametrize("name", BAD_LISTS)
def test_list_is_refused(name):
    """There is no order that explains every answer."""
    assert check_list(*BAD_LISTS[name]) is not None


def explained(history, start):
    """The definition itself: try every order, and every set of what may have happened."""
    certain = [one for one in history if one.responded != NEVER]
    uncertain = [one for one in history if one.responded == NEVER]
    for chosen in range(2 ** len(uncertain)):
        happened = certain + [one for at, one in enumerate(uncertain) if chosen >> at & 1]
        for order in permutations(happened):
            late = any(b.responded < a.invoked for at, a in enumerate(order) for b in order[at + 1 :])
            if not late and _right(order, start):
                return True
    return False


def _right(order, number):
    for one in order:
        number = one.applied(number)
        if number is None:
            return False
    return True


def test_agrees_with_the_definition():
    """On small random histories the search says what trying every order says."""
    chance = random.Random(7)
    verdicts = []
    for _ in range(1500):
        history = []
        for _ in range(chance.randint(1, 5)):
            invoked = chance.randint(0, 8)
            responded = invoked + chance.randint(1, 5) if chance.random() < 0.8 else NEVER
            kind = chance.choice(["read", "read", "write", "add"])
            if kind == "read" and responded == NEVER:
                continue
            old = chance.randint(0, 3) if kind == "add" and chance.random() < 0.3 else None
            history.append(Operation(kind, chance.randint(0, 3), invoked, responded, old))
        verdicts.append(explained(history, 0))
        assert (check_register(history, 0) is None) == verdicts[-1], "\n".join(map(str, history))
    assert 200 < sum(verdicts) < 1300


def test_long_history():
    """Thousands of operations of several processes, some of which may never have happened, take moments."""
    chance = random.Random(3)
    history, number, now = [], 0, 0.0
    for turn in range(4000):
        now += 1
        invoked = now - chance.random() * 4
        if chance.random() < 0.7:
            history.append(read(number, invoked, now + chance.random() * 4))
        else:
            number += 1
            history.append(add(1, invoked, now + chance.random() * 4 if turn % 100 else NEVER))
    assert check_register(history, 0) is None
    assert check_register([*history, read(number - 60, now + 9, now + 10)], 0) is not None


def test_gives_up():
    """A search that grows too large is no verdict."""
    with pytest.raises(SearchTooLarge):
        check_register([write(value, 0, 100) for value in range(20)] + [read(-1, 101, 102)], 0, bound=1000)
