"""Redis with sentinels and in a cluster: a node is lost under load, slots move, nothing stale is served."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from django.core.cache import caches
from django.test import override_settings
from django_redis.pool import ConnectionFactory

from cachalot.core import protocol
from cachalot.core.envelope import Entry
from cachalot.core.keys import Namespace, draw
from cachalot.core.protocol import Found, Keys, WriteKeys
from cachalot.core.steps import SERVER, Committed
from cachalot.core.tags import EPOCH, any_of
from cachalot.engine.guard import Guard
from cachalot.stores.base import StoreAway, Tier
from cachalot.stores.making import make_store
from tests.servers.base import HOST
from tests.servers.redis import Redis
from tests.servers.redis_topologies import SERVICE, Cluster, Watched, client_of, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

ALIAS = "subject"
SPACE = Namespace(b"a database")
ENTRIES = 12
WRITERS, READERS = 2, 2

pytestmark = pytest.mark.skipif(not Redis.available(), reason="not installed: redis-server")


class Database:
    """One row, whose only column counts its commits."""

    def __init__(self) -> None:
        self.version = 0
        self._lock = threading.Lock()

    def commit(self) -> Committed:
        """Write the row."""
        with self._lock:
            self.version += 1
        return Committed.YES


class Load:
    """Threads that write and read through the protocol, each through a guard of its own, as processes do.

    :ivar wrong: every hit that was older than the read, with what was not delivered at that moment.
    """

    def __init__(self) -> None:
        self.database = Database()
        self.hits = 0
        self.errors: list[BaseException] = []
        self.wrong: list[tuple[int, int, int]] = []
        self.writers = [Guard(make_store(ALIAS)) for _ in range(WRITERS)]
        self.in_flight = 0
        self._ended = threading.Event()
        self._lock = threading.Lock()

    def keys(self, number: int) -> Keys:
        """Return the keys of one query."""
        return Keys(SPACE.entry(f"query{number}"), (SPACE.tag(EPOCH), SPACE.tag(any_of("t"))), SPACE.clock)

    def read(self, guard: Guard, number: int) -> int | None:
        """Read once; return what was served, ``None`` if nothing was."""

        def opened(value: Any) -> Entry | None:
            if not isinstance(value, bytes):
                return None
            stamp, _, payload = value.partition(b"|")
            return Entry(bytes.fromhex(stamp.decode()), 0, payload)

        keys = self.keys(number)
        answer = guard.run(protocol.read(keys, opened, draw))
        if answer.found is Found.HIT and answer.entry is not None:
            return int(answer.entry.payload)
        version = self.database.version
        if answer.stamp is not None and keys.entry is not None:
            value = f"{answer.stamp.hex()}|{version}".encode()
            guard.run(protocol.fill(keys.entry, value))
        return None

    def _reading(self) -> None:
        guard = Guard(make_store(ALIAS))
        number = 0
        while not self._ended.is_set():
            number = (number + 1) % ENTRIES
            before = self.database.version
            pending = self.pending()
            try:
                served = self.read(guard, number)
            except StoreAway:
                time.sleep(0.01)
                continue
            if served is not None:
                self.hits += 1
                if served < before:
                    self.wrong.append((served, before, pending + self.pending()))

    def _writing(self, guard: Guard) -> None:
        keys = WriteKeys((SPACE.tag(any_of("t")),), SPACE.clock)
        while not self._ended.is_set():
            with self._lock:
                self.in_flight += 1
            guard.commit(keys, self.database.commit)
            with self._lock:
                self.in_flight -= 1
            time.sleep(0.01)

    def pending(self) -> int:
        """Return how many invalidations were not delivered."""
        return sum(guard.undelivered() for guard in self.writers)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let the threads run for a block, and see whether any has failed."""

        def guarded(call: Any, *arguments: Any) -> None:
            try:
                call(*arguments)
            except BaseException as error:  # noqa: BLE001 - told by the main thread
                self.errors.append(error)

        threads = [threading.Thread(target=guarded, args=(self._reading,)) for _ in range(READERS)]
        threads += [threading.Thread(target=guarded, args=(self._writing, guard)) for guard in self.writers]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._ended.set()
            for thread in threads:
                thread.join(60)
        assert self.errors == []

    def served_more(self, hits: int = 50) -> None:
        """Wait until there were more hits."""
        wanted = self.hits + hits
        wait_until(lambda: self.hits >= wanted or bool(self.errors), "hits")

    def settled(self) -> None:
        """See that everything is delivered in the end, and that what is served then equals the database."""

        def delivered() -> bool:
            for guard in self.writers:
                try:
                    guard.deliver()
                except StoreAway:
                    return False
            return self.pending() == 0

        wait_until(delivered, "delivery")
        guard = Guard(make_store(ALIAS))

        def served() -> bool:
            try:
                found = [self.read(guard, number) for number in range(ENTRIES)]
            except StoreAway:
                return False
            assert set(found) <= {None, self.database.version}
            return None not in found

        wait_until(served, "hits")


@pytest.fixture
def watched() -> Iterator[Watched]:
    """A master, a replica and sentinels, and a cache that asks these who the master is."""
    with Watched() as servers:
        entry = {
            "BACKEND": "django_redis.cache.RedisCache",
            "LOCATION": f"redis://{SERVICE}/0",
            "OPTIONS": {
                "CLIENT_CLASS": "django_redis.client.SentinelClient",
                "CONNECTION_POOL_CLASS": "redis.sentinel.SentinelConnectionPool",
                "CONNECTION_FACTORY": "django_redis.pool.SentinelConnectionFactory",
                "SENTINELS": [(HOST, one.port) for one in servers.sentinels],
                "SOCKET_TIMEOUT": 1,
            },
        }
        with subject(entry):
            yield servers


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Three masters, and a cache that spreads its keys over them."""
    with Cluster() as servers:
        entry = {
            "BACKEND": "django_redis.cache.RedisCache",
            "LOCATION": f"redis://{servers.nodes[0].address}/0",
            "OPTIONS": {"CONNECTION_FACTORY": "tests.testapp.caches.ClusterFactory"},
        }
        with subject(entry):
            yield servers


@contextmanager
def subject(entry: dict[str, Any]) -> Iterator[None]:
    """Configure the cache of a test."""
    from django.conf import settings

    with override_settings(CACHES={**settings.CACHES, ALIAS: entry}, CACHALOT_LEASE=5):
        assert make_store(ALIAS).tier is Tier.INTENTS
        yield
        caches[ALIAS].close()
    # One for the whole process, by address.
    ConnectionFactory._pools.clear()


def made_key(key: str) -> str:
    """Return a key as it is on the server."""
    return f":1:{key}"


def test_master_dies_under_load(watched: Watched) -> None:
    """Sentinels promote the replica; no hit is stale but while the end of a commit is not delivered."""
    load = Load()
    with load.running():
        load.served_more()
        watched.master.kill()
        wait_until(watched.promoted, "promotion")
        wait_until(lambda: load.pending() == 0, "delivery")
        load.served_more()
    assert [one for one in load.wrong if not one[2]] == []
    load.settled()


def test_new_master_has_another_name(watched: Watched) -> None:
    """Nothing stored before a failover can be served after it."""
    load = Load()
    guard = Guard(make_store(ALIAS))
    load.read(guard, 0)
    assert load.read(guard, 0) == 0
    wait_until(lambda: client_of(watched.replica).exists(made_key(SPACE.entry("query0"))) == 1, "replication")
    before = make_store(ALIAS).get_many(["x"])[SERVER]
    watched.master.kill()
    wait_until(watched.promoted, "promotion")

    def served() -> bool:
        try:
            assert load.read(Guard(make_store(ALIAS)), 0) is None
        except StoreAway:
            return False
        return True

    wait_until(served, "an answer")
    assert make_store(ALIAS).get_many(["x"])[SERVER] != before


def test_state_of_a_database_lies_on_one_node(cluster: Cluster) -> None:
    """What one script changes is in one slot, whatever the table; entries are spread."""
    with cluster.client() as client:
        state = {
            SPACE.clock,
            *(SPACE.tag(any_of(name)) for name in "abc"),
            SPACE.tag(EPOCH),
            SPACE.named_tag("x"),
        }
        assert len({client.keyslot(made_key(key)) for key in state}) == 1
        assert len({client.keyslot(made_key(SPACE.entry(name))) for name in "abcdefgh"}) > 1


@pytest.mark.parametrize("data", [False, True], ids=["empty", "with its data"])
@pytest.mark.parametrize("state", [True, False], ids=["node of the tokens", "another node"])
def test_node_of_a_cluster_dies_under_load(cluster: Cluster, state: bool, data: bool) -> None:
    """No hit is ever stale, and after the node has come back there are hits again on all of them."""
    load = Load()
    of_state = cluster.owner(made_key(SPACE.clock))
    node = of_state if state else next(one for one in cluster.nodes if one is not of_state)
    with load.running():
        load.served_more()
        node.kill()
        wait_until(lambda: not node.answers(), "death")
        time.sleep(0.5)
        node.restart(keep_data=True)
        if not data:
            client_of(node).flushall()
        load.served_more()
    assert [one for one in load.wrong if not one[2]] == []
    load.settled()


def test_slot_moves_under_load(cluster: Cluster) -> None:
    """While the slot of the tokens moves to another node no hit is stale, and then there are hits again."""
    load = Load()
    with cluster.client() as client:
        slot = client.keyslot(made_key(SPACE.clock))
    source = cluster.owner(made_key(SPACE.clock))
    target = next(one for one in cluster.nodes if one is not source)
    with load.running():
        load.served_more()
        cluster.move(slot, source, target)
        load.served_more()
    assert [one for one in load.wrong if not one[2]] == []
    assert cluster.owner(made_key(SPACE.clock)) is target
    load.settled()
