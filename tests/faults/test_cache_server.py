"""The cache server is stopped, killed, restarted, full, or behind a broken line."""

from __future__ import annotations

from typing import Any

import pytest

from tests.faults.agreeing import agreed, hits_again
from tests.faults.conftest import FAULTS, client_of
from tests.faults.processes import SOCKET_TIMEOUT, eventually, postgres_settings, redis_settings
from tests.faults.proxy import DOWN, UP, Proxy
from tests.servers import Redis

pytestmark = FAULTS

WRITES = ["write", "write_atomic"]
#: Seconds a slow machine may take for what is not waiting.
GENEROUS = 3.0
#: Seconds of a time-out that is long beside everything else in a request.
LONG_TIMEOUT = 2.0


@pytest.fixture
def own_redis():
    """Makes a Redis that only this test breaks."""
    made: list[Redis] = []

    def start(**options: Any) -> Redis:
        made.append(Redis(**options).start())
        return made[-1]

    yield start
    for server in made:
        server.stop()


@pytest.fixture
def line(redis):
    """A line to the Redis of the module, and a second one for another process."""
    with Proxy(redis.port) as one, Proxy(redis.port) as two:
        yield one, two


class Outage:
    """A reader and a writer whose lines to the cache fail together, and a register that is cached."""

    def __init__(
        self, postgres: Any, start_worker: Any, lines: tuple[Any, ...], timeout: float = SOCKET_TIMEOUT
    ) -> None:
        self.lines = lines
        self.start = lambda line: start_worker(
            postgres_settings(postgres.port), redis_settings(line.port, timeout)
        )
        self.reader, self.writer = self.start(lines[0]), self.start(lines[-1])
        self.pk = self.reader.call("create", 1)
        hits_again(self.reader, self.pk)
        hits_again(self.writer, self.pk)

    def all(self, fault: Any) -> None:
        """Let a fault befall both lines."""
        for line in self.lines:
            fault(line)


@pytest.fixture
def outage(postgres, cache, line, start_worker):
    """On the server of the module."""
    return Outage(postgres, start_worker, line)


# A server that stops, dies, comes back.


@pytest.mark.parametrize("write", WRITES)
def test_redis_is_stopped(write, postgres, own_redis, start_worker):
    """While Redis is frozen everything goes on, and what it heard too late harms nobody when it thaws."""
    server = own_redis()
    case = Outage(postgres, start_worker, (server,))
    server.pause()
    seconds, _ = case.writer.call("timed", write, case.pk, 2)
    assert seconds < SOCKET_TIMEOUT + GENEROUS
    assert agreed(case.reader, case.pk) == [2]
    server.resume()
    assert agreed(case.reader, case.pk) == [2]
    assert agreed(case.writer, case.pk) == [2]
    assert hits_again(case.reader, case.pk) == 2


PERSISTENCE = {"empty": {}, "log": {"aof": True}, "dump": {"rdb": True}}


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("point", ["before MARK", "after MARK", "after COMMIT", "before DONE"])
@pytest.mark.parametrize("kept", PERSISTENCE)
def test_redis_is_killed_during_a_write(kept, point, write, postgres, own_redis, start_worker):
    """The write goes on without an error, and is seen by everybody when Redis is back, whatever it kept."""
    server = own_redis(**PERSISTENCE[kept])
    case = Outage(postgres, start_worker, (server,))
    if kept == "dump":
        client_of(server).save()
    case.writer.start(write, case.pk, 2, stop=point)
    case.writer.reached(point)
    server.kill()
    case.writer.go()
    case.writer.finish()
    assert agreed(case.reader, case.pk) == [2]
    server.restart()
    for worker in (case.reader, case.writer, case.start(server)):
        assert agreed(worker, case.pk) == [2]
        assert hits_again(worker, case.pk) == 2


@pytest.mark.parametrize("point", ["before CREATE", "before QUERY", "after QUERY", "before FILL"])
@pytest.mark.parametrize("kept", PERSISTENCE)
def test_redis_is_restarted_during_a_read(kept, point, postgres, own_redis, start_worker):
    """A reader that looked at the old server stores nothing on the new one that is ever stale."""
    server = own_redis(**PERSISTENCE[kept])
    case = Outage(postgres, start_worker, (server,))
    other = case.reader.call("create", 7)
    case.reader.call("forget")
    if point == "before CREATE":
        client_of(server).flushall()
    if kept == "dump":
        client_of(server).save()
    case.reader.start("read", other, stop=point)
    case.reader.reached(point)
    server.kill()
    server.restart()
    case.writer.call("close")
    eventually(lambda: case.writer.call("undelivered") == 0, "nothing waits")
    case.writer.call("write", other, 8)
    case.reader.go()
    assert case.reader.finish() in {7, 8}
    for worker in (case.reader, case.writer):
        assert agreed(worker, other) == [8]
        assert hits_again(worker, other) == 8


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("noticed", [True, False], ids=["noticed", "not noticed"])
def test_redis_comes_back_with_old_data(noticed, write, postgres, own_redis, start_worker):
    """Tokens and entries from a dump are not believed, by old processes nor by new ones."""
    server = own_redis(rdb=True)
    case = Outage(postgres, start_worker, (server,))
    client_of(server).save()
    kept = set(client_of(server).keys())
    case.writer.call(write, case.pk, 2)
    assert agreed(case.reader, case.pk) == [2]
    assert hits_again(case.reader, case.pk) == 2
    server.kill()
    if noticed:
        assert agreed(case.reader, case.pk) == [2]
    server.restart()
    assert kept & set(client_of(server).keys()), "the dump was not loaded"
    for worker in (case.start(server), case.reader, case.writer):
        assert agreed(worker, case.pk) == [2]
        assert hits_again(worker, case.pk) == 2


def test_writer_dies_and_redis_comes_back_with_old_data(postgres, own_redis, start_worker):
    """Nobody is left who knows of the write; what the dump says is not believed all the same."""
    server = own_redis(rdb=True)
    case = Outage(postgres, start_worker, (server,))
    client_of(server).save()
    case.writer.start("write_atomic", case.pk, 2, stop="after COMMIT")
    case.writer.reached("after COMMIT")
    server.kill()
    case.writer.kill()
    server.restart()
    for worker in (case.reader, case.start(server)):
        assert agreed(worker, case.pk) == [2]
        assert hits_again(worker, case.pk) == 2


# A server that is full.


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-lru", "noeviction"])
def test_redis_is_full(policy, postgres, own_redis, start_worker):
    """Whatever is thrown out or refused, nothing stale is read, and nobody gets an error."""
    server = own_redis(options=["--maxmemory-policy", policy])
    case = Outage(postgres, start_worker, (server,))
    client = client_of(server)
    client.config_set("maxmemory", client.info("memory")["used_memory"] + 500_000)
    filler = case.start(server)
    for value in range(2, 8):
        filler.call("fill_up", 60, 20_000)
        case.writer.call("write_atomic", case.pk, value)
        assert agreed(case.reader, case.pk) == [value]
        assert agreed(case.writer, case.pk) == [value]
    stats = client.info("stats")
    full = client.info("errorstats").get("errorstat_OOM", {}).get("count", 0)
    assert full if policy == "noeviction" else stats["evicted_keys"], "it was never full"


def test_redis_without_room_for_a_mark(postgres, own_redis, start_worker):
    """A server that refuses a mark still answers reads: they must not be those from before the write."""
    server = own_redis(options=["--maxmemory-policy", "noeviction"])
    case = Outage(postgres, start_worker, (server,))
    client = client_of(server)
    client.config_set("maxmemory", 1)
    for value in (2, 3):
        case.writer.call("write_atomic", case.pk, value)
        assert agreed(case.reader, case.pk) == [value]
    client.config_set("maxmemory", 0)
    assert agreed(case.reader, case.pk) == [3]
    assert hits_again(case.writer, case.pk) == 3
    assert hits_again(case.reader, case.pk) == 3


# A line that fails.

LINE_FAULTS = {
    "slow": lambda line: line.delay(SOCKET_TIMEOUT / 20),
    "too slow": lambda line: line.delay(SOCKET_TIMEOUT * 2),
    "requests are lost": lambda line: line.swallow(UP),
    "answers are lost": lambda line: line.swallow(DOWN),
    "black hole": lambda line: line.swallow(),
    "cut": Proxy.cut,
    "refused": Proxy.refuse,
    "no route": Proxy.vanish,
    "no byte of an answer": lambda line: line.truncate(DOWN, 0),
    "one byte of an answer": lambda line: line.truncate(DOWN, 1),
    "part of an answer": lambda line: line.truncate(DOWN, 25),
    "much of an answer": lambda line: line.truncate(DOWN, 3000),
    "part of a request": lambda line: line.truncate(UP, 40),
}


@pytest.mark.parametrize("fault", LINE_FAULTS)
def test_the_line_to_redis_fails(fault, outage):
    """Everything goes on, and no process that has noticed serves anything stale afterwards."""
    outage.all(LINE_FAULTS[fault])
    agreed(outage.reader, outage.pk)
    outage.writer.call("write_atomic", outage.pk, 2)
    assert agreed(outage.reader, outage.pk) == [2]
    assert agreed(outage.writer, outage.pk) == [2]
    outage.all(Proxy.heal)
    assert agreed(outage.reader, outage.pk) == [2]
    assert hits_again(outage.writer, outage.pk) == 2
    assert hits_again(outage.reader, outage.pk) == 2


@pytest.mark.parametrize("fault", ["black hole", "refused"])
def test_writer_is_killed_during_an_outage(fault, outage):
    """What it could not tell the cache is told by those who come back to it."""
    outage.all(LINE_FAULTS[fault])
    agreed(outage.reader, outage.pk)
    outage.writer.call("write_atomic", outage.pk, 2)
    outage.writer.kill()
    assert agreed(outage.reader, outage.pk) == [2]
    outage.all(Proxy.heal)
    assert agreed(outage.reader, outage.pk) == [2]
    assert hits_again(outage.reader, outage.pk) == 2


@pytest.mark.parametrize("fault", ["requests are lost", "answers are lost", "cut", "refused"])
@pytest.mark.parametrize("point", ["before MARK", "after MARK", "after COMMIT"])
def test_the_line_fails_in_a_write(point, fault, outage):
    """The answer to a MARK or a DONE is lost, or the request: the write is seen by all, without an error."""
    outage.writer.start("write_atomic", outage.pk, 2, stop=point)
    outage.writer.reached(point)
    outage.all(LINE_FAULTS[fault])
    agreed(outage.reader, outage.pk)
    outage.writer.go()
    outage.writer.finish()
    assert agreed(outage.reader, outage.pk) == [2]
    outage.all(Proxy.heal)
    assert agreed(outage.reader, outage.pk) == [2]
    assert hits_again(outage.writer, outage.pk) == 2


# What an outage costs.


@pytest.fixture
def costs(postgres, own_redis, start_worker):
    """Says how many seconds a fault adds to a request of many reads and a write."""

    def measure(fault: Any) -> float:
        server = own_redis()
        with Proxy(server.port) as line:
            case = Outage(postgres, start_worker, (line,), LONG_TIMEOUT)
            without = min(case.reader.call("request", case.pk, 20) for _ in range(3))
            fault(server, line)
            spent: float = case.reader.call("request", case.pk, 20)
            return spent - without

    return measure


def _dies(server: Redis, line: Proxy) -> None:
    server.kill()
    line.refuse()


DEAD = {"killed": _dies, "refused": lambda _server, line: line.refuse()}
SILENT = {
    "frozen": lambda server, _line: server.pause(),
    "black hole": lambda _server, line: line.swallow(),
    "no route": lambda _server, line: line.vanish(),
    "too slow": lambda _server, line: line.delay(LONG_TIMEOUT * 2),
}


@pytest.mark.parametrize("fault", DEAD)
def test_a_dead_server_costs_a_request_less_than_one_connect_time_out(fault, costs):
    """Who is told at once that nobody is there does not wait, for any of the queries."""
    assert costs(DEAD[fault]) < LONG_TIMEOUT / 2


@pytest.mark.parametrize("fault", SILENT)
def test_a_silent_server_costs_a_request_one_time_out(fault, costs):
    """Who hears nothing waits once, not once per query: two time-outs would be more than one and a half."""
    assert costs(SILENT[fault]) < 1.5 * LONG_TIMEOUT
