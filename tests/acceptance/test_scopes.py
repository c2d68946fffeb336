"""Scopes and switches: disabled, refreshing, put off, and settings that change while the process runs."""

from __future__ import annotations

import asyncio
import threading

import pytest
from asgiref.sync import sync_to_async
from django.db import connection, connections, transaction
from django.test import override_settings

from cachalot.api import (
    cachalot_disabled,
    cachalot_refreshing,
    explain,
    get_last_invalidation,
    invalidation_deferred,
)
from cachalot.core.decisions import Reason
from cachalot.signals import post_invalidation
from tests.acceptance.racing import (
    agreed,
    agreed_everywhere,
    ended_by,
    is_hit,
    kind_of,
    reasons,
    recorded_steps,
    truth,
)
from tests.testapp.models import Author, Book, Tag

pytestmark = pytest.mark.django_db(transaction=True)

WRITING = {"MARK", "DONE"}


class ExpectedError(Exception):
    """Ends a block."""


def names():
    """The read of most tests."""
    return list(Author.objects.values_list("name", flat=True))


def unseen(name):
    """A write that the cache does not hear of, so that a hit can be told from a query."""
    with connection.cursor() as cursor:
        cursor.cursor.execute(f"UPDATE testapp_author SET name = '{name}'")


@pytest.fixture(autouse=True)
def _author(transactional_db):
    """A row, cached under its first name, that has another one in the database."""
    Author.objects.create(name="cached")
    agreed(names)
    unseen("in the database")
    assert names() == ["cached"]


def served():
    """Whether a read is answered from the cache here."""
    return {"cached": True, "in the database": False}[names()[0]]


def run(main):
    """The result of a coroutine function, whose thread for the database keeps no connection afterwards."""

    async def whole():
        try:
            return await main()
        finally:
            await sync_to_async(connections.close_all)()

    return asyncio.run(whole())


# cachalot_disabled.


def test_disabled_block():
    """Inside, queries are run and nothing is stored; outside, all is as before."""
    with cachalot_disabled():
        assert not served()
        assert reasons(names) == [Reason.DISABLED]
    assert served()


def test_disabled_block_with_an_exception():
    """An exception ends the scope."""
    with ended_by(ExpectedError), cachalot_disabled():
        assert not served()
        raise ExpectedError
    assert served()


def test_disabled_blocks_nest():
    """The end of an inner scope does not end the outer one, of whatever kind the two are."""
    with cachalot_disabled():
        with cachalot_disabled():
            assert not served()
        assert not served()
        with pytest.raises(ExpectedError), cachalot_disabled(all_queries=True):
            raise ExpectedError
        assert not served()
    assert served()
    with cachalot_disabled(all_queries=True), cachalot_disabled():
        assert not served()
    assert served()


def test_one_disabled_object_entered_again():
    """The same object may be used again, and inside of itself."""
    scope = cachalot_disabled()
    with scope:
        with scope:
            assert not served()
        assert not served()
    assert served()
    with scope:
        assert not served()
    assert served()


def test_disabled_function():
    """As a decorator it holds for each call, also for one that fails and one that calls itself."""

    @cachalot_disabled()
    def function(depth):
        assert not served()
        if depth:
            function(depth - 1)
            assert not served()
        else:
            raise ExpectedError

    for _ in range(2):
        with pytest.raises(ExpectedError):
            function(2)
        assert served()


def test_disabled_coroutine():
    """As a decorator of a coroutine function it holds for the time the coroutine runs."""

    @cachalot_disabled()
    async def function():
        got = [name async for name in Author.objects.values_list("name", flat=True)]
        await asyncio.sleep(0)
        assert got == ["in the database"]
        assert await Author.objects.acount() == 1
        raise ExpectedError

    async def main():
        with pytest.raises(ExpectedError):
            await function()
        return [name async for name in Author.objects.values_list("name", flat=True)]

    assert run(main) == ["cached"]


def test_disabled_async_block():
    """``async with`` works, across ``await``, and is not seen by a task that runs beside it."""

    async def anames():
        return [name async for name in Author.objects.values_list("name", flat=True)]

    async def beside(entered, looked):
        await entered.wait()
        got = await anames()
        looked.set()
        return got

    async def main():
        entered, looked = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(beside(entered, looked))
        async with cachalot_disabled():
            entered.set()
            await looked.wait()
            inside = await anames()
        with pytest.raises(ExpectedError):
            async with cachalot_disabled():
                raise ExpectedError
        return inside, await task, await anames()

    assert run(main) == (["in the database"], ["cached"], ["cached"])


def test_disabled_async_block_that_is_cancelled():
    """A cancellation ends the scope of the task, and leaves the state of others alone."""

    async def forever(entered):
        async with cachalot_disabled():
            entered.set()
            await asyncio.Event().wait()

    async def main():
        entered = asyncio.Event()
        task = asyncio.create_task(forever(entered))
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return [name async for name in Author.objects.values_list("name", flat=True)]

    assert run(main) == ["cached"]


def test_disabled_generator():
    """A decorated generator is disabled in its own steps, and not in what its caller does between them."""

    @cachalot_disabled()
    def generator():
        for _ in range(2):
            yield served()
        return "end"

    def outer():
        result = yield from generator()
        assert result == "end"

    steps = outer()
    assert next(steps) is False
    assert served()
    assert list(steps) == [False]
    half = generator()
    next(half)
    half.close()
    assert served()


def test_block_in_a_generator_that_is_never_finished():
    """A generator that is dropped inside a block leaves nothing behind once it is closed."""

    def generator():
        with cachalot_disabled():
            yield served()

    steps = generator()
    assert next(steps) is False
    steps.close()
    assert served()


def test_disabled_block_in_another_thread():
    """A scope belongs to the thread that opened it."""
    seen = []
    with cachalot_disabled():
        thread = threading.Thread(target=lambda: (seen.append(served()), connection.close()))
        thread.start()
        thread.join(30)
        assert not served()
    assert seen == [True]


def test_writes_in_a_disabled_block(other_connection):
    """What is written inside is invalidated."""
    with cachalot_disabled():
        Author.objects.update(name="after")
        assert other_connection(lambda: agreed(names)) == ["after"]
    assert agreed_everywhere(names, other_connection) == ["after"]
    with cachalot_disabled(), transaction.atomic():
        Author.objects.update(name="later")
    assert agreed_everywhere(names, other_connection) == ["later"]


def test_disabled_block_in_a_transaction(other_connection):
    """What is written outside is known inside, and the other way round."""
    with transaction.atomic():
        Author.objects.update(name="first")
        agreed(names)
        with cachalot_disabled():
            Author.objects.update(name="second")
            assert names() == ["second"]
        assert agreed(names) == ["second"]
    assert agreed_everywhere(names, other_connection) == ["second"]


def test_disabled_block_around_a_lazy_query_set():
    """A query set is run where it is evaluated, not where it was made."""
    with cachalot_disabled():
        inside = Author.objects.values_list("name", flat=True)
    assert list(inside) == ["cached"]
    outside = Author.objects.values_list("name", flat=True)
    with cachalot_disabled():
        assert list(outside) == ["in the database"]


def test_evaluated_query_set_in_a_disabled_block():
    """A query set that was evaluated before is run again only if all queries are asked for."""
    evaluated = Author.objects.values_list("name", flat=True)
    assert list(evaluated) == ["cached"]
    with cachalot_disabled():
        assert list(evaluated) == ["cached"]
    with cachalot_disabled(all_queries=True):
        assert list(evaluated) == ["in the database"]
        unseen("once more")
        assert list(evaluated) == ["once more"]
    assert list(evaluated) == ["once more"]


def test_prefetched_relation_in_a_disabled_block():
    """What was prefetched is fetched again with its query set."""
    author = Author.objects.get()
    Book.objects.create(title="before", author=author)
    authors = Author.objects.prefetch_related("books")
    assert [[book.title for book in author.books.all()] for author in authors] == [["before"]]
    Book.objects.update(title="after")
    with cachalot_disabled(all_queries=True):
        assert [[book.title for book in author.books.all()] for author in authors] == [["after"]]


# cachalot_refreshing.


def test_refreshing_block():
    """Inside, queries are run and their results stored, so that the cache is right and warm afterwards."""
    with cachalot_refreshing():
        assert not served()
    assert names() == ["in the database"]
    assert is_hit(names)


def test_refreshing_function_and_iterator():
    """The same as a decorator, and for what is read through an iterator."""

    @cachalot_refreshing()
    def refresh():
        return [list(Author.objects.values_list("name", flat=True).iterator()), Author.objects.count()]

    assert refresh() == [["in the database"], 1]
    assert is_hit(names)
    assert agreed(names) == ["in the database"]


def test_refreshing_in_a_disabled_block():
    """The innermost scope decides."""
    with cachalot_disabled(), cachalot_refreshing():
        assert not served()
    assert names() == ["in the database"]
    with cachalot_refreshing(), cachalot_disabled():
        unseen("once more")
        assert names() == ["once more"]
    assert names() == ["in the database"]


def test_refreshing_inside_a_transaction_that_wrote(other_connection):
    """Own writes are not published by it."""
    with ended_by(ExpectedError), transaction.atomic():
        Author.objects.update(name="dropped")
        with cachalot_refreshing():
            assert names() == ["dropped"]
        raise ExpectedError
    assert other_connection(names) != ["dropped"]
    assert names() != ["dropped"]


# invalidation_deferred.


def writes(steps):
    """The steps that told the cache of a write."""
    return [kind for kind in map(kind_of, steps) if kind in WRITING]


@pytest.mark.parametrize("inside", [True, False], ids=["atomic", "autocommit"])
def test_thousand_saves_with_invalidation_deferred(inside, other_connection):
    """A thousand saves are one write to the cache, at the end of the block."""
    author = Author.objects.get()
    author.save()

    def work():
        for age in range(1000):
            author.age = age
            author.save(update_fields=["age"])

    with recorded_steps() as steps:
        with invalidation_deferred():
            if inside:
                with transaction.atomic():
                    work()
            else:
                work()
            assert writes(steps) == []
            assert truth(lambda: Author.objects.get().age) == 999
            assert Author.objects.get().age == 999
        assert writes(steps) == ["DONE"]
    assert agreed_everywhere(lambda: Author.objects.get().age, other_connection) == 999


def test_deferred_block_reads_its_own_writes():
    """Tables written in the block are read from the database in it, and nothing of that is stored."""
    agreed(Tag.objects.count)
    with invalidation_deferred():
        Author.objects.update(name="after")
        assert names() == ["after"]
        assert reasons(names) == [Reason.UNCOMMITTED]
        assert is_hit(Tag.objects.count)
    assert agreed(names) == ["after"]


def test_deferred_block_with_an_exception(other_connection):
    """An exception loses no invalidation."""
    with ended_by(ExpectedError), invalidation_deferred():
        Author.objects.update(name="after")
        Tag.objects.create(name="x")
        raise ExpectedError
    assert agreed_everywhere(names, other_connection) == ["after"]
    assert agreed_everywhere(Tag.objects.count, other_connection) == 1


def test_deferred_blocks_nest(other_connection):
    """Only the end of the outermost block delivers, also when the inner one failed."""
    with recorded_steps() as steps, invalidation_deferred():
        with ended_by(ExpectedError), invalidation_deferred():
            Author.objects.update(name="after")
            raise ExpectedError
        assert writes(steps) == []
        Tag.objects.create(name="x")
    assert writes(steps) == ["DONE"]
    assert agreed_everywhere(names, other_connection) == ["after"]


def test_deferred_function(other_connection):
    """It is a decorator as well."""

    @invalidation_deferred()
    def work():
        Author.objects.update(name="after")
        Author.objects.create(name="new")

    with recorded_steps() as steps:
        work()
    assert writes(steps) == ["DONE"]
    assert agreed_everywhere(names, other_connection) == ["after", "new"]


def test_deferred_block_inside_a_transaction(other_connection):
    """The block ends before the commit: what it wrote is invalidated by the commit, too."""
    with transaction.atomic():
        with invalidation_deferred():
            Author.objects.update(name="after")
            assert agreed(names) == ["after"]
        assert agreed(names) == ["after"]
        other_connection(lambda: agreed(Tag.objects.count))
        other_connection(names)
    assert agreed_everywhere(names, other_connection) == ["after"]


def test_deferred_block_around_a_transaction_that_is_rolled_back(other_connection):
    """Nothing of it is left; and what was committed beside it is not lost."""
    with invalidation_deferred():
        with ended_by(ExpectedError), transaction.atomic():
            Author.objects.update(name="dropped")
            raise ExpectedError
        with transaction.atomic():
            Tag.objects.create(name="kept")
    assert agreed_everywhere(Tag.objects.count, other_connection) == 1
    truth(names)


def test_deferred_block_with_raw_sql(other_connection):
    """Statements of a cursor are put off too."""
    with recorded_steps() as steps:
        with invalidation_deferred(), connection.cursor() as cursor:
            for number in range(5):
                cursor.execute("UPDATE testapp_author SET name = %s", [f"raw {number}"])
            assert writes(steps) == []
        assert writes(steps) == ["DONE"]
    assert agreed_everywhere(names, other_connection) == ["raw 4"]


def test_reader_that_stores_during_a_deferred_block(other_connection):
    """Others may see and store what is old while the block lasts; none of it survives its end."""
    with invalidation_deferred():
        Author.objects.update(name="after")
        other_connection(names)
        other_connection(lambda: list(Author.objects.all()))
    assert agreed_everywhere(names, other_connection) == ["after"]
    assert [
        author.name for author in agreed_everywhere(lambda: list(Author.objects.all()), other_connection)
    ] == ["after"]


def test_signal_of_a_deferred_block():
    """It is sent once per table, at the end."""
    sent = []

    def receiver(sender, **kwargs):
        sent.append(sender)

    post_invalidation.connect(receiver)
    try:
        before = get_last_invalidation(Author)
        with invalidation_deferred():
            for number in range(3):
                Author.objects.update(name=f"{number}")
            assert sent == []
            assert get_last_invalidation(Author) == before
    finally:
        post_invalidation.disconnect(receiver)
    assert sent == [Author._meta.db_table]
    assert get_last_invalidation(Author) > before


# Settings.


def test_disabled_by_the_settings(settings, other_connection):
    """With CACHALOT_ENABLED = False nothing is cached, and writes still invalidate."""
    settings.CACHALOT_ENABLED = False
    assert not served()
    assert other_connection(names) == ["in the database"]
    assert reasons(names) == [Reason.DISABLED]
    assert explain(Author.objects.all()).decision.reason is Reason.DISABLED
    before = get_last_invalidation(Author)
    Author.objects.update(name="after")
    assert get_last_invalidation(Author) > before
    with transaction.atomic():
        Tag.objects.create(name="x")
    settings.CACHALOT_ENABLED = True
    assert agreed_everywhere(names, other_connection) == ["after"]
    assert is_hit(names)


def test_override_settings():
    """A setting that a test overrides holds inside the block and not after it, nested ones too."""
    with override_settings(CACHALOT_ENABLED=False):
        assert not served()
        with override_settings(CACHALOT_ENABLED=True):
            assert served()
        assert not served()
    assert served()
    with override_settings(CACHALOT_UNCACHABLE_TABLES=["testapp_author"]):
        assert reasons(names) == [Reason.TABLE]
    assert served()
    with override_settings(CACHALOT_ONLY_CACHABLE_TABLES=["testapp_tag"]):
        assert reasons(names) == [Reason.TABLE]
    with override_settings(CACHALOT_DATABASES=["other"]):
        assert reasons(names) == [Reason.DATABASE]
    assert served()


@override_settings(CACHALOT_ENABLED=False)
def test_override_settings_as_a_decorator():
    """The fixture warmed nothing, for it ran inside as well or before; nothing is served."""
    assert not is_hit(names)
    agreed(names)
    assert not is_hit(names)


@pytest.mark.parametrize(
    "switch", [{"CACHALOT_DATABASES": []}, {"CACHALOT_UNCACHABLE_TABLES": ["testapp_author"]}]
)
def test_writes_to_what_is_not_cached_for_now(switch, other_connection):
    """What is excluded for a while is invalidated meanwhile."""
    with override_settings(**switch):
        Author.objects.update(name="after")
        assert agreed_everywhere(names, other_connection) == ["after"]
    assert agreed_everywhere(names, other_connection) == ["after"]


def test_raw_sql_that_is_not_looked_at():
    """CACHALOT_INVALIDATE_RAW = False leaves statements of a cursor to the project."""
    with override_settings(CACHALOT_INVALIDATE_RAW=False), connection.cursor() as cursor:
        cursor.execute("UPDATE testapp_author SET name = 'raw'")
    assert names() == ["cached"]
    with connection.cursor() as cursor:
        cursor.execute("UPDATE testapp_author SET name = 'raw again'")
    assert agreed(names) == ["raw again"]


def test_another_cache():
    """Another CACHALOT_CACHE starts cold, and what is written under it is invalidated there."""
    with override_settings(CACHALOT_CACHE="second"):
        assert agreed(names) == ["in the database"]
        assert is_hit(names)
        Author.objects.update(name="after")
        assert agreed(names) == ["after"]
        assert is_hit(names)


def test_wrong_value_of_a_setting():
    """A value of the wrong type changes nothing, or ends caching where it could make something stale."""
    with override_settings(CACHALOT_ENABLED="False"):
        assert served()
    with override_settings(CACHALOT_REPLICAS="default"):
        assert not served()
    # Keys may have had other names meanwhile, so what was stored before is not believed.
    assert not served()
