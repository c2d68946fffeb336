"""Somebody changes what lies in the cache: no wrong row is served, no foreign code is run, and it heals."""

from __future__ import annotations

import itertools
import os
import pickle
import random
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from django.conf import settings
from django.core.cache import caches
from django.db import connection, transaction
from django.test import override_settings

from cachalot.api import get_last_invalidation, invalidate, stats
from cachalot.core.decisions import Reason
from cachalot.orm import relations
from cachalot.testing import reset, watch
from tests.acceptance.racing import agreed, is_hit, reasons, same, truth
from tests.faults.shelves import ALIAS, LocMemShelf, Shelf, make_shelf, seen_keys
from tests.servers import SERVERS, Server
from tests.testapp.models import AUTHOR_STATS_VIEW, Author, AuthorStats, Book

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other"])

#: The server of each kind of cache; a database of the other kinds changes little, so it sees but two.
SERVER_OF = {
    "locmem": "",
    "file": "",
    "redis": "redis",
    "django-redis": "redis",
    "pymemcache": "memcached",
    "pylibmc": "memcached",
}
SUBJECTS = list(SERVER_OF) if settings.TEST_DB == "sqlite" else ["locmem", "redis"]
#: Seconds of a lease here, and after which what does not heal counts as ill for good.
LEASE = 1
PATIENCE = 20
SIGN = "CACHALOT_TEST_FOREIGN_CODE"


def authors() -> list[Any]:
    """One table."""
    return list(Author.objects.values_list("id", "name", "age"))


def grown_up() -> list[Any]:
    """The same table, and another result of the same shape."""
    return list(Author.objects.filter(age__gte=40).values_list("id", "name", "age"))


def books() -> list[Any]:
    """Another table, and a result of the same shape."""
    return list(Book.objects.values_list("id", "title", "pages"))


def authors_elsewhere() -> list[Any]:
    """The same table and statement on another database."""
    return list(Author.objects.using("other").values_list("id", "name", "age"))


READS = (authors, grown_up, books, authors_elsewhere)


class Foreign:
    """What runs code when it is unpickled."""

    def __reduce__(self) -> Any:
        return exec, (f"import os; os.environ[{SIGN!r}] = 'run'",)


@pytest.fixture(scope="module")
def servers() -> Iterator[Callable[[str], Server]]:
    """Starts each server once."""
    started: dict[str, Server] = {}

    def start(name: str) -> Server:
        if name not in started:
            started[name] = SERVERS[name]().start()
        return started[name]

    yield start
    for server in started.values():
        server.stop()


@pytest.fixture(params=SUBJECTS)
def shelf(request: pytest.FixtureRequest, servers: Any, tmp_path: Any) -> Iterator[Shelf]:
    """One kind of cache after the other, in use, with rows in the database."""
    name = SERVER_OF[request.param]
    if name and not SERVERS[name].available():
        pytest.skip(f"not installed: {name}")
    seen_keys.clear()
    made = make_shelf(request.param, tmp_path, servers(name) if name else None)
    caches_of = {**settings.CACHES, ALIAS: made.entry}
    with override_settings(CACHES=caches_of, CACHALOT_CACHE=ALIAS, CACHALOT_LEASE=LEASE):
        caches[ALIAS].clear()
        reset()
        fill_tables()
        os.environ.pop(SIGN, None)
        yield made
        assert SIGN not in os.environ, "code was run that came from the cache"
        caches[ALIAS].clear()
        caches[ALIAS].close()


def fill_tables() -> None:
    """Rows that differ from table to table and from database to database."""
    for number, name in enumerate("abc"):
        author = Author.objects.create(name=name, age=30 + 10 * number)
        Book.objects.create(title=f"by {name}", author=author, pages=number)
        Author.objects.using("other").create(name=f"other {name}", age=number)


def warm() -> None:
    """Have every read answered from the cache."""
    deadline = time.monotonic() + PATIENCE
    while False in [is_hit(read) for read in READS]:
        assert time.monotonic() < deadline, [reasons(read) for read in READS]
        time.sleep(0.01)


def all_true() -> None:
    """Every read agrees with the database, also when it is repeated."""
    for read in READS:
        agreed(read)


def none_served() -> list[Any]:
    """Every read agrees with the database and was not answered from the cache; why not."""
    why = []
    for read in READS:
        expected = truth(read)
        with watch() as seen:
            same(read(), expected)
        assert not seen.hits, f"{read.__name__} was answered from the cache"
        why += [decision.reason for decision in seen.decisions]
    return why


def entries(shelf: Shelf) -> dict[str, bytes]:
    """The results that lie there."""
    found = {key: shelf.read(key) for key in shelf.keys(":q:")}
    assert len(found) == len(READS)
    return found


def replace(shelf: Shelf, values: dict[str, Any]) -> None:
    """Put other values in their place."""
    for key, value in values.items():
        shelf.write(key, value)


# Results.


def changes(data: bytes, other: bytes) -> Iterator[bytes]:
    """Byte strings that somebody could put in the place of a result."""
    chance = random.Random(len(data))
    yield from (chance.randbytes(size) for size in (1, 38, len(data), len(data) + 100))
    yield from (
        data + b"\0",
        data * 2,
        data[2:],
        b"\0" + data,
        other[: len(data) // 2] + data[len(data) // 2 :],
    )
    bomb = pickle.dumps(Foreign())
    framed = len(bomb).to_bytes(4, "big") + bomb
    yield from (bomb, framed, b"\0" + bomb, pickle.dumps(Foreign(), 0))
    # Behind a head, and behind a head and a seal, that were ours.
    for start in (data.find(b"\xca\x01"), 0):
        yield from (data[: start + 22] + framed, data[: start + 38] + framed, data[: start + 38] + bomb)


def test_result_is_replaced(shelf: Shelf) -> None:
    """Whatever lies in the place of a result is a miss, is counted, and the next read finds a new result."""
    warm()
    kept = entries(shelf)
    changed = {key: list(changes(data, b"other" * 100)) for key, data in kept.items()}
    for values in zip(*changed.values(), strict=True):
        before = stats()
        replace(shelf, dict(zip(kept, values, strict=True)))
        assert set(none_served()) == {Reason.UNDECODABLE}
        assert stats()["cache_undecodable"] == before.get("cache_undecodable", 0) + len(READS)
        assert all(map(is_hit, READS))


def test_result_becomes_a_value_of_another_type(shelf: Shelf) -> None:
    """A cache can give back anything it can hold; nothing of it is taken for rows, and no error is seen."""
    warm()
    tokens = [shelf.read(key) for key in shelf.keys(":v:")]
    marks = ["!", "!mark", "!writer@9999999999999,", "+created@1.0"]
    for value in [*shelf.odd(), *marks, *tokens]:
        replace(shelf, dict.fromkeys(entries(shelf), value))
        assert set(none_served()) <= {Reason.UNDECODABLE, Reason.NEW}
        warm()


def stride(shelf: Shelf) -> int:
    """Where a cache is fast every place is tried."""
    return 1 if isinstance(shelf, LocMemShelf) else 7


def test_result_is_cut_at_every_length(shelf: Shelf) -> None:
    """No beginning of a result is a result."""
    warm()
    kept = entries(shelf)
    for length in range(0, min(map(len, kept.values())), stride(shelf)):
        replace(shelf, {key: data[:length] for key, data in kept.items()})
        assert set(none_served()) <= {Reason.UNDECODABLE, Reason.NEW}


def test_one_bit_is_flipped(shelf: Shelf) -> None:
    """Each byte of a result counts."""
    warm()
    kept = entries(shelf)
    for place in range(0, max(map(len, kept.values())), stride(shelf)):
        values = {}
        for key, data in kept.items():
            changed = bytearray(data)
            changed[place % len(data)] ^= 1 << place % 8
            values[key] = bytes(changed)
        replace(shelf, values)
        assert set(none_served()) == {Reason.UNDECODABLE}


def test_results_are_swapped(shelf: Shelf) -> None:
    """A result of another query, table or database is not this one's, even if we made it ourselves."""
    warm()
    kept = entries(shelf)
    for order in itertools.permutations(kept.values()):
        moved = dict(zip(kept, order, strict=True))
        if all(moved[key] != kept[key] for key in kept):
            replace(shelf, moved)
            assert set(none_served()) == {Reason.UNDECODABLE}


def test_old_results_are_put_back(shelf: Shelf) -> None:
    """A result from before a write stays dead, though its seal is right."""
    warm()
    old = entries(shelf)
    write()
    all_true()
    replace(shelf, old)
    assert set(none_served()) == {Reason.CHANGED}
    write_in_block()
    replace(shelf, old)
    assert set(none_served()) == {Reason.CHANGED}
    warm()


def test_result_sealed_with_another_secret(shelf: Shelf) -> None:
    """What another project has sealed under the very same key is a miss."""
    with override_settings(SECRET_KEY="of another project"):
        warm()
    assert set(none_served()) == {Reason.UNDECODABLE}
    warm()


# The state of tables.


def write() -> None:
    """Change every table on both databases."""
    Author.objects.update(name=f"author {time.monotonic_ns()}")
    Book.objects.update(title=f"book {time.monotonic_ns()}")
    Author.objects.using("other").update(name=f"elsewhere {time.monotonic_ns()}")


def write_in_block() -> None:
    """The same in transactions."""
    with transaction.atomic(), transaction.atomic("other"):
        write()
        for read in READS:
            same(read(), truth(read))


def healthy() -> None:
    """As if nothing had been changed: every read is answered from the cache, none from before a write."""
    for key in [*seen_keys]:
        caches[ALIAS].delete(key)
    reset()
    warm()


KINDS = {"tokens": ":v:", "clocks": ":w:", "notes": ":i:"}
#: So often, for there are five or more keys of tokens, and one clock for each database.
ROUNDS = {"tokens": 5, "clocks": 10, "notes": 5}


@pytest.mark.parametrize("kind", KINDS)
def test_state_is_replaced(shelf: Shelf, kind: str) -> None:
    """Whatever lies in the place of a token, the clock or a note, reads tell the truth, and it heals."""
    warm()
    tokens = [shelf.read(key) for key in shelf.keys(":v:")]
    marks = ["!", "!mark", "!writer@1,", "!writer@9999999999999,", "!@,@,", "+", "+created@1.0"]
    values = itertools.cycle([*shelf.odd(), *marks, tokens[0], b"\xff" * 40, os.urandom(30)])
    for _ in range(ROUNDS[kind]):
        healthy()
        write()
        warm()
        keys = shelf.keys(KINDS[kind])
        assert keys
        odd = [next(values) for _key in keys]
        replace(shelf, dict(zip(keys, odd, strict=True)))
        all_true()
        assert get_last_invalidation(Author) >= 0.0
        write_in_block()
        all_true()
        replace(shelf, dict(zip(keys, odd, strict=True)))
        write()
        all_true()


def healed() -> None:
    """Reads tell the truth, and come from the cache again as soon as a lease is over."""
    deadline = time.monotonic() + PATIENCE
    while False in [is_hit(read) for read in READS]:
        assert time.monotonic() < deadline, [reasons(read) for read in READS]
        all_true()
        time.sleep(LEASE / 4)  # the lease ends by the clock of the server


@pytest.mark.parametrize("kind", ["tokens", "clocks"])
def test_state_heals(shelf: Shelf, kind: str) -> None:
    """After garbage in the place of tokens or the clock, reads come from the cache again, without help."""
    warm()
    odd = [value for value in shelf.odd() if value is not None and not isinstance(value, shelf.structures)]
    for key, value in zip(shelf.keys(KINDS[kind]), reversed(odd), strict=False):
        shelf.write(key, value)
    healed()
    write()
    healed()


# The tag of a row that nobody writes again stays dark until its mark, which has a lease, is gone.
@pytest.mark.granularity("table")
def test_marks_of_nobody_end_by_writing(shelf: Shelf) -> None:
    """A mark that nobody has set keeps results from being served, until what it stands for is written."""
    warm()
    replace(shelf, dict.fromkeys(shelf.keys(":v:"), "!mark"))
    assert set(none_served()) == {Reason.DARK}
    write()
    invalidate()
    invalidate(db_alias="other")
    healed()


@pytest.mark.parametrize("shelf", [name for name in SUBJECTS if SERVER_OF[name] == "redis"], indirect=True)
def test_structure_of_redis_in_the_place_of_a_token(shelf: Shelf) -> None:
    """A list where a token should be is replaced as any other garbage."""
    warm()
    replace(shelf, {key: ["a"] for key in shelf.keys(":v:")})
    all_true()
    invalidate()
    with mock.patch(f"{__name__}.PATIENCE", 3 * LEASE):
        healed()


@pytest.mark.parametrize("shelf", ["locmem"], indirect=True)
def test_token_is_half_a_character(shelf: Shelf) -> None:
    """A text that is no Unicode is a token like others."""
    warm()
    replace(shelf, dict.fromkeys(shelf.keys(":v:"), "\ud800"))
    all_true()


def test_tokens_are_swapped(shelf: Shelf) -> None:
    """The tokens of two tables in each other's place end results, and bring none back."""
    warm()
    keys = shelf.keys(":v:")
    values = [shelf.read(key) for key in keys]
    for shift in range(1, len(keys)):
        replace(shelf, dict(zip(keys, values[shift:] + values[:shift], strict=True)))
        all_true()
        write()
        all_true()
    warm()


@contextmanager
def view() -> Iterator[None]:
    """A view over authors and books."""
    with connection.cursor() as cursor:
        cursor.execute(AUTHOR_STATS_VIEW)
    yield
    with connection.cursor() as cursor:
        cursor.execute("DROP VIEW testapp_authorstats")


def counted() -> list[Any]:
    """What the view shows."""
    return list(AuthorStats.objects.order_by("author_id").values_list("name", "books"))


def test_facts_about_views_are_replaced(shelf: Shelf) -> None:
    """What was kept of the catalogue is sealed as results are: garbage there is looked up again."""
    with view():
        agreed(counted)
        for value in [*shelf.odd(), pickle.dumps(Foreign()), "!mark", os.urandom(80)]:
            invalidate()
            agreed(counted)
            (key,) = shelf.keys(":b:")
            with mock.patch.dict(relations._kept, clear=True):
                shelf.write(key, value)
                agreed(counted)
                Author.objects.create(name=f"another {time.monotonic_ns()}")
                agreed(counted)
                assert is_hit(counted)


# What lies below the values.


@pytest.mark.parametrize("part", [":q:", ":v:", ":w:"])
def test_stored_bytes_are_changed(shelf: Shelf, part: str) -> None:
    """Where the cache itself cannot read what it holds, the database answers, and nobody sees an error."""
    warm()
    for change in (
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: b"\xff" * len(data),
        lambda data: bytes([data[0] ^ 128]) + data[1:],
    ):
        for key in shelf.keys(part):
            shelf.store(key, change(shelf.stored(key)))
        for _ in range(2):
            for read in READS:
                same(read(), truth(read))
            write()
        caches[ALIAS].clear()
        reset()
        warm()
