"""Several aliases for one database, mirrors and replicas: a write through one is seen through all."""

from __future__ import annotations

import pytest
from django.db import connections, transaction
from django.test import override_settings

from cachalot.api import get_last_invalidation, invalidate
from cachalot.core.decisions import Reason
from tests.acceptance.racing import agreed, agreed_everywhere, alias, evict, is_hit, keys_of, reasons
from tests.testapp.models import Author, Tag

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other"])


class ReadsFromReplica:
    """Reads go to the replica, writes to the primary."""

    def db_for_read(self, model, **hints):
        """As Django asks."""
        return "replica"

    def db_for_write(self, model, **hints):
        """As Django asks."""
        return "default"

    def allow_relation(self, *args, **hints):
        """As Django asks."""
        return True


ROUTED = override_settings(DATABASE_ROUTERS=[f"{__name__}.ReadsFromReplica"])


MIRROR = {"TEST": {"MIRROR": "default"}}
SAME_DATABASE = [pytest.param({}, id="same name"), pytest.param(MIRROR, id="mirror")]


def names(using="replica"):
    """The read of most tests."""
    return list(Author.objects.using(using).values_list("name", flat=True))


def primary():
    """The same from the primary."""
    return names("default")


@pytest.fixture
def author():
    """The row that is written."""
    return Author.objects.using("default").create(name="before")


@pytest.mark.parametrize("changes", SAME_DATABASE)
def test_write_through_one_alias_is_seen_through_the_other(changes, author, other_connection):
    """Two aliases that mean one database share what is written, in both directions."""
    with alias("replica", **changes):
        assert agreed(names) == agreed(primary) == ["before"]
        Author.objects.using("default").update(name="after")
        assert agreed(names) == agreed(primary) == ["after"]
        Author.objects.using("replica").update(name="later")
        assert agreed(names) == agreed(primary) == ["later"]
        with transaction.atomic(using="default"):
            Author.objects.using("default").update(name="in a transaction")
            assert agreed(names) == ["later"]
            assert agreed(primary) == ["in a transaction"]
        assert agreed(names) == agreed(primary) == ["in a transaction"]
        invalidate(Author, db_alias="replica")
        assert not is_hit(primary)


@pytest.mark.parametrize("changes", SAME_DATABASE)
def test_reads_and_writes_that_a_router_parts(changes, author):
    """With a router that reads from the replica, a write through the primary is read back."""
    with alias("replica", **changes), ROUTED:
        read = lambda: [(one.name, one._state.db) for one in Author.objects.all()]  # noqa: E731
        assert agreed(read) == [("before", "replica")]
        one = Author.objects.get()
        one.name = "after"
        one.save(using="default")
        assert agreed(read) == [("after", "replica")]
        Author.objects.create(name="new")
        assert agreed(Author.objects.count) == 2
        Author.objects.all().using("default").delete()
        assert agreed(read) == []


def test_declared_replica_with_a_router(author):
    """Declared as a replica, the second alias is invalidated by the first, within the lag and after it."""
    with alias("replica"), ROUTED, override_settings(CACHALOT_REPLICAS={"replica": "default"}):
        assert agreed(names) == ["before"]
        for number in range(3):
            Author.objects.update(name=f"after {number}")
            assert agreed(names) == [f"after {number}"]
            assert agreed(primary) == [f"after {number}"]
        assert is_hit(names)


def test_results_are_shared_in_a_group(author):
    """What was read through the primary need not be read through its replica again."""
    with alias("replica"), override_settings(CACHALOT_REPLICAS={"replica": "default"}):
        agreed(primary)
        assert is_hit(names)


def test_time_of_the_last_invalidation_is_that_of_the_group(author):
    """Whichever alias is asked."""
    with alias("replica"), override_settings(CACHALOT_REPLICAS={"replica": "default"}):
        before = get_last_invalidation(Author, db_alias="replica")
        assert before == get_last_invalidation(Author, db_alias="default")
        Author.objects.using("default").update(name="after")
        assert get_last_invalidation(Author, db_alias="replica") > before


# A replica that lags behind: another database, which gets what the primary has when a test says so.

LAGGING = {"CACHALOT_REPLICAS": {"other": "default"}, "CACHALOT_REPLICA_LAG": 300}


def replicate():
    """Bring the replica up to date, behind everybody's back."""
    rows = []
    for using in ("default", "other"):
        with connections[using].cursor() as cursor:
            driver = cursor.cursor
            if using == "default":
                driver.execute("SELECT id, name FROM testapp_author")
                rows = driver.fetchall()
                continue
            driver.execute("DELETE FROM testapp_author")
            for number, name in rows:
                driver.execute(f"INSERT INTO testapp_author (id, name) VALUES ({int(number)}, '{name}')")


def replica():
    """What the replica has."""
    return names("other")


def end_lag():
    """Let the time pass after which a replica has caught up."""
    evict(*(f"{key}:h" for key in keys_of(replica) if ":v:" in key))


@pytest.fixture
def lagging(author):
    """A replica that has caught up, and the settings that say that it is one."""
    replicate()
    with override_settings(**LAGGING):
        primary()
        # What a first write learns of the table would cost a miss later.
        Author.objects.filter(pk=-1).update(name="nobody")
        end_lag()
        yield


@pytest.mark.parametrize("inside", [True, False], ids=["atomic", "autocommit"])
@pytest.mark.parametrize("warm", [True, False], ids=["warm", "cold"])
def test_replica_that_has_not_caught_up(warm, inside, lagging):
    """What a replica answers before it has caught up is not stored; when it has, the new rows are there."""
    if warm:
        agreed(replica)
    if inside:
        with transaction.atomic():
            Author.objects.update(name="after")
    else:
        Author.objects.update(name="after")
    assert agreed(replica) == ["before"]
    assert reasons(replica) == [Reason.REPLICA_LAG]
    replicate()
    assert agreed(replica) == ["after"]
    assert agreed(primary) == ["after"]
    end_lag()
    agreed(replica)
    assert is_hit(replica)


def test_primary_warms_the_cache_of_a_lagging_replica(lagging):
    """What the primary answered is newer than what the replica has, and may be served for it."""
    Author.objects.update(name="after")
    assert agreed(primary) == ["after"]
    assert replica() == ["after"]


def test_lag_of_one_table_leaves_others_alone(lagging):
    """Only what was written is held back."""
    read = lambda: list(Tag.objects.using("other").values_list("name", flat=True))  # noqa: E731
    agreed(read)
    Author.objects.update(name="after")
    assert is_hit(read)
    agreed(read)


def test_rollback_on_the_primary_holds_nothing_back(lagging):
    """A rollback is no write, for replicas too."""
    agreed(replica)
    with transaction.atomic():
        Author.objects.update(name="dropped")
        transaction.set_rollback(True)
    assert is_hit(replica)


def test_databases_that_are_not_declared_stay_apart(author, other_connection):
    """Two databases of one server with equal tables share nothing."""
    Author.objects.using("other").create(name="elsewhere")
    assert agreed_everywhere(primary, other_connection) == ["before"]
    assert agreed_everywhere(replica, other_connection) == ["elsewhere"]
    Author.objects.update(name="after")
    assert is_hit(replica)
    assert agreed_everywhere(primary, other_connection) == ["after"]


def test_replica_of_a_replica(author):
    """A chain of replicas has one primary."""
    chain = {"second": "replica", "replica": "default"}
    with alias("replica"), alias("second"), override_settings(CACHALOT_REPLICAS=chain):
        second = lambda: names("second")  # noqa: E731
        assert agreed(second) == ["before"]
        Author.objects.update(name="after")
        assert agreed(second) == agreed(names) == agreed(primary) == ["after"]
