"""Private Redis servers that belong together: a cluster of three masters, a master watched by sentinels."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import redis
from redis.cluster import ClusterNode, RedisCluster

from tests.servers.base import HOST, free_port
from tests.servers.redis import Redis

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from typing_extensions import Self

SLOTS = 16384
MASTERS = 3
SENTINELS = 3
#: The name under which sentinels know the master.
SERVICE = "watched"
#: Milliseconds after which sentinels take a master for dead.
DOWN_AFTER = 500
PATIENCE = 60.0


def wait_until(true: Callable[[], bool], what: str) -> None:
    """Wait for a condition.

    :raises TimeoutError: it does not come true.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            if true():
                return
        except redis.RedisError:
            pass
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.05)


def client_of(server: Redis) -> redis.Redis:
    """Return a client of one server."""
    return redis.Redis(host=HOST, port=server.port, socket_timeout=5)


class Sentinel(Redis):
    """A sentinel that watches one master."""

    def __init__(self, master: Redis) -> None:
        super().__init__()
        self.master = master

    def prepare(self) -> None:
        """A sentinel writes what it learns into its own configuration."""
        super().prepare()
        lines = (
            f"port {self.port}",
            f"bind {HOST}",
            f"dir {self.data}",
            f"sentinel monitor {SERVICE} {HOST} {self.master.port} 2",
            f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER}",
            f"sentinel failover-timeout {SERVICE} 3000",
        )
        path = self.data / "sentinel.conf"
        path.write_text("\n".join(lines))
        self._give_to_account(path)

    def command(self) -> list[str]:
        """The same program in another mode."""
        return [str(self.binary()), str(self.data / "sentinel.conf"), "--sentinel"]


class Together:
    """Servers that are started and stopped together."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def started(self, server: Redis) -> Redis:
        """Start one of them."""
        return self._stack.enter_context(server)

    def __enter__(self) -> Self:
        try:
            self.begin()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def begin(self) -> None:
        """Start all of them and let them find each other."""
        raise NotImplementedError


class Watched(Together):
    """A master, its replica and three sentinels.

    :ivar master: the master at first.
    :ivar replica: its replica.
    """

    def begin(self) -> None:
        """Start them in the order in which they need each other."""
        self.master = self.started(Redis())
        self.replica = self.started(Redis(options=["--replicaof", f"{HOST} {self.master.port}"]))
        self.sentinels = [self.started(Sentinel(self.master)) for _ in range(SENTINELS)]
        wait_until(lambda: self.seen() == {"slaves": 1, "sentinels": SENTINELS - 1}, "sentinels")
        wait_until(lambda: client_of(self.replica).info("replication")["master_link_status"] == "up", "link")

    def seen(self) -> dict[str, int]:
        """Return how many others the sentinel that knows least has seen."""
        masters = [client_of(one).sentinel_masters()[SERVICE] for one in self.sentinels]
        return {
            "slaves": min(one["num-slaves"] for one in masters),
            "sentinels": min(one["num-other-sentinels"] for one in masters),
        }

    def promoted(self) -> bool:
        """Return whether the replica has become the master, in the eyes of all sentinels."""
        masters = [client_of(one).sentinel_masters()[SERVICE]["port"] for one in self.sentinels]
        return set(masters) == {self.replica.port} and client_of(self.replica).role()[0] == b"master"


class Cluster(Together):
    """Three masters that share the slots."""

    def begin(self) -> None:
        """Let them meet, and give each a third of the slots."""
        self.nodes = [self.started(Redis(options=_clustered())) for _ in range(MASTERS)]
        first = self.nodes[0]
        for at, node in enumerate(self.nodes):
            begin, end = SLOTS * at // MASTERS, SLOTS * (at + 1) // MASTERS - 1
            client_of(node).execute_command("CLUSTER", "ADDSLOTSRANGE", begin, end)
            client_of(node).execute_command("CLUSTER", "SET-CONFIG-EPOCH", at + 1)
            if node is not first:
                bus = client_of(first).config_get("cluster-port")["cluster-port"]
                client_of(node).execute_command("CLUSTER", "MEET", HOST, first.port, bus)
        wait_until(lambda: all(map(self._complete, self.nodes)), "the cluster")

    def _complete(self, node: Redis) -> bool:
        lines = client_of(node).execute_command("CLUSTER", "INFO").split()
        return b"cluster_state:ok" in lines and b"cluster_known_nodes:%d" % MASTERS in lines

    def client(self) -> RedisCluster:
        """Return a client of the whole."""
        return RedisCluster(startup_nodes=[ClusterNode(HOST, node.port) for node in self.nodes])

    def owner(self, key: str) -> Redis:
        """Return the node that has a key."""
        with self.client() as client:
            port = client.get_node_from_key(key).port
        return next(node for node in self.nodes if node.port == port)

    def move(self, slot: int, source: Redis, target: Redis) -> None:
        """Move a slot, with the keys in it, from one node to another."""
        ids = {node: client_of(node).execute_command("CLUSTER", "MYID").decode() for node in self.nodes}
        here, there = client_of(source), client_of(target)
        there.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
        here.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
        while keys := here.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100):
            here.execute_command("MIGRATE", HOST, target.port, "", 0, 5000, "KEYS", *keys)
        for node in (target, source, *self.nodes):
            client_of(node).execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[target])


def _clustered() -> list[str]:
    return [
        *("--cluster-enabled", "yes"),
        *("--cluster-port", str(free_port())),
        *("--cluster-node-timeout", "1000"),
        *("--databases", "1"),
        *("--cluster-require-full-coverage", "no"),
    ]
