"""Registers, counters and lists under faults: four processes write and read, a nemesis breaks things.

    python -m tests.faults.workload [--seconds 60] [--seed 1] [--strict] [--set NAME=VALUE …]

Every operation is judged afterwards, see ``linearizability``; what the processes write down is explained in
``clients``. The report goes to the terminal and to reports/register.txt.

Each history is judged twice. *Strictly*: every answer is explained by one order. If it is not, then *with
windows*: a write that the cache could not be told of before its commit, or whose mark was lost with the whole
content of the cache while it was in flight, opens a window for its table until the cache has heard of it
(docs/guarantees.md), and a hit in a window may be as old as the beginning of the window. Nothing else is
excused; a read after a window is judged like any other. A *strict* run excuses nothing at all: every write is
refused that the cache cannot be told of (``CACHALOT_ON_CACHE_FAILURE = 'raise'``), and there is no fault that
makes the cache forget marks.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import django

from tests.faults import clients
from tests.faults.linearizability import NEVER, Operation, SearchTooLarge, check_list, check_register
from tests.faults.processes import (
    Worker,
    context,
    eventually,
    postgres_settings,
    redis_settings,
    settings_for,
)
from tests.faults.proxy import DOWN, UP, Proxy
from tests.servers import Postgres, Redis

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

REPORT = Path(__file__).resolve().parents[2] / "reports" / "register.txt"
PLACES = 4
ROWS = {"Register": 3, "Counter": 3, "Journal": 2}
SOCKET_TIMEOUT = 0.25
#: Far above what a commit takes here, so that no lease ends under a living writer.
LEASE = 4.0
#: Seconds that the database takes for a write at most, as far as nobody has seen it end.
IN_FLIGHT = 1.0
#: Seconds the processes get to find back to the cache; the longest pause of the circuit breaker is 15.
RECOVERY = 45.0


@dataclass
class Judgement:
    """What was found out about one key."""

    key: str
    operations: int
    strict: str = ""
    windows: str = ""

    @property
    def good(self) -> bool:
        """Whether there is an order."""
        return not self.strict or not self.windows


@dataclass
class Result:
    """What happened in a run, and what it was judged to be."""

    seconds: float
    seed: int
    settings: dict[str, Any]
    strict: bool = False
    faults: list[str] = field(default_factory=list)
    judgements: list[Judgement] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    raised: Counter[str] = field(default_factory=Counter)
    foreign: list[str] = field(default_factory=list)
    windows: Counter[str] = field(default_factory=Counter)
    in_windows: int = 0
    disagreed: list[str] = field(default_factory=list)
    judged_in: float = 0.0

    @property
    def good(self) -> bool:
        """Whether everything is as it should be."""
        orders = all(not one.strict if self.strict else one.good for one in self.judgements)
        return orders and not self.foreign and not self.disagreed

    def text(self) -> str:
        """The report."""
        strictly = sum(not one.strict for one in self.judgements)
        with_windows = sum(one.good for one in self.judgements)
        lines = [
            f"Register workload on PostgreSQL and Redis: {self.seconds:.0f} s, {PLACES} processes",
            f"seed: {self.seed}, settings: {self.settings or 'those of the defaults'}"
            + (", strict" if self.strict else ""),
            f"Django {django.get_version()}, Python {platform.python_version()}",
            "",
            f"operations: {dict(sorted(self.outcomes.items()))}",
            f"exceptions of Django: {dict(sorted(self.raised.items()))}",
            f"other exceptions: {self.foreign or 'none'}",
            f"windows: {dict(sorted(self.windows.items()))}; hits in them: {self.in_windows}",
            f"keys whose last cached read differs from the database: {self.disagreed or 'none'}",
            "",
            f"linearizable: {strictly} of {len(self.judgements)} keys strictly, {with_windows} with windows",
            f"judged in {self.judged_in:.1f} s",
        ]
        for one in self.judgements:
            verdict = "linearizable" if not one.strict else "with windows" if one.good else "NOT LINEARIZABLE"
            lines.append(f"  {one.key:<12} {one.operations:6d} operations  {verdict}")
            if one.strict:
                lines.append(f"    {one.windows or one.strict}")
        lines += ["", "faults, at seconds since the start:", *(f"  {one}" for one in self.faults)]
        lines += ["", "GOOD" if self.good else "BAD"]
        return "\n".join(lines) + "\n"


# The run.


class Run:
    """The servers, the lines, the processes and the nemesis of one run."""

    def __init__(
        self, stack: ExitStack, seconds: float, seed: int, more: dict[str, Any], *, strict: bool
    ) -> None:
        self.seconds = seconds
        self.result = Result(seconds, seed, more, strict)
        self.chance = random.Random(seed)
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cachalot-register-")))
        self.postgres = stack.enter_context(Postgres())
        self.redis = stack.enter_context(Redis(rdb=True))
        self.database_line = stack.enter_context(Proxy(self.postgres.port))
        self.lines = [stack.enter_context(Proxy(self.redis.port)) for _ in range(PLACES)]
        self.steps = context.Array("L", PLACES, lock=False)
        self.pending = context.Array("b", PLACES, lock=False)
        self.phase = context.Value("b", 0, lock=False)
        self.waiting = context.Array("b", PLACES, lock=False)
        self.processes: list[Any] = [None] * PLACES
        self.clients = 0
        self.lost: list[tuple[float, float]] = []
        self.started = 0.0
        self._more = more
        stack.callback(self._end_all)

    def _settings(self, line: Proxy) -> dict[str, Any]:
        database = postgres_settings(self.database_line.port)
        made = settings_for(
            database,
            redis_settings(line.port, SOCKET_TIMEOUT),
            **{"CACHALOT_LEASE": LEASE, **self._more},
        )
        made["DATABASES"][clients.SNAPSHOT] = {**database, "OPTIONS": {"isolation_level": _repeatable_read()}}
        return made

    def prepare(self) -> None:
        """Make the tables and the rows."""
        made = Worker(self._settings(self.lines[0]))
        made.call("migrate")
        self.keys = made.call("rows", ROWS)
        made.close()

    def start_client(self, place: int) -> None:
        """Let a process begin, in the place of one that has ended."""
        # Its number tells its place.
        number = self.clients * PLACES + place
        self.clients += 1
        self.pending[place] = 0
        arguments = (
            number,
            self._settings(self.lines[place]),
            self.keys,
            str(self.folder / f"{number}.log"),
            self.steps,
            self.pending,
            self.phase,
            self.waiting,
        )
        self.processes[place] = context.Process(target=clients.run, args=arguments, daemon=True)
        self.processes[place].start()

    def run(self) -> Result:
        """Do all of it."""
        self.prepare()
        self.started = time.monotonic()
        for place in range(PLACES):
            self.start_client(place)
        self.recovered()
        names: list[str] = []
        while time.monotonic() - self.started < self.seconds:
            names = names or [name for name in NEMESIS if not (self.result.strict and name in FORGETTING)]
            self.befall(names.pop(self.chance.randrange(len(names))))
        self.phase.value = 1
        eventually(lambda: all(self.waiting), "every process has ended its last operation", RECOVERY)
        self.phase.value = 2
        for process in self.processes:
            process.join(RECOVERY)
            assert process.exitcode == 0, f"a client has ended with {process.exitcode}"
        self.judge()
        return self.result

    def befall(self, name: str) -> None:
        """Let one fault happen, heal it, and wait until everybody has recovered."""
        began = time.monotonic()
        NEMESIS[name](self)
        healed = time.monotonic()
        self.recovered()
        self.result.faults.append(
            f"{began - self.started:6.2f}  {name}, {healed - began:.2f} s,"
            f" all was well after {time.monotonic() - healed:.2f} s"
        )
        self.wait(0.1, 0.4)

    def recovered(self) -> None:
        """Wait until every process goes on and has told the cache everything."""
        before = list(self.steps)
        eventually(
            lambda: (
                not any(self.pending)
                and all(now >= then + 5 for now, then in zip(self.steps, before, strict=True))
            ),
            "every process goes on",
            RECOVERY,
        )

    def wait(self, least: float, most: float) -> None:
        """Let time pass: how long a fault lasts is no matter of a condition."""
        time.sleep(self.chance.uniform(least, most))

    def wait_for_burst(self) -> None:
        """Wait until a burst of writes has just begun."""
        while clients.in_burst():
            time.sleep(0.01)
        while not clients.in_burst():
            time.sleep(0.01)

    def wait_for_calm(self) -> None:
        """Wait until a burst of writes has just ended."""
        self.wait_for_burst()
        while clients.in_burst():
            time.sleep(0.01)

    def some_lines(self) -> list[Proxy]:
        """The line of one process, or all."""
        return [self.chance.choice(self.lines)] if self.chance.random() < 0.5 else self.lines

    @contextmanager
    def losing(self) -> Iterator[None]:
        """A block in which the cache forgets marks."""
        began = time.monotonic()
        yield
        self.lost.append((began, time.monotonic()))

    def _end_all(self) -> None:
        for process in self.processes:
            if process is not None and process.is_alive():
                process.kill()
                process.join()

    # The judgement.

    def judge(self) -> None:
        """Read the logs and judge each key."""
        began = time.monotonic()
        history = History(self.folder, self.lost, self.result)
        asked = Worker(self._settings(self.lines[0]))
        for name, pks in self.keys.items():
            for pk in pks:
                final = asked.call("row", name, pk)
                one = Judgement(f"{name} {pk}", len(history.operations[name, pk]))
                one.strict = history.verdict((name, pk), final, windows=False)
                one.windows = one.strict and history.verdict((name, pk), final, windows=True)
                self.result.judgements.append(one)
                if any(value != final for value in history.last_reads(name, pk)):
                    self.result.disagreed.append(one.key)
        asked.close()
        self.result.judged_in = time.monotonic() - began


def _repeatable_read() -> Any:
    from django.db.backends.postgresql.psycopg_any import IsolationLevel

    return IsolationLevel.REPEATABLE_READ


# The nemesis.


def _frozen(run: Run) -> None:
    run.redis.pause()
    run.wait(0.1, 1.0)
    run.redis.resume()


def _killed(run: Run) -> None:
    with run.losing():
        run.redis.kill()
        (run.redis.data / "dump.rdb").unlink(missing_ok=True)
        run.wait(0.0, 0.8)
        run.redis.start()


def _old_data(run: Run) -> None:
    client = _client(run)
    run.wait_for_calm()
    client.save()
    run.wait_for_calm()
    with run.losing():
        run.redis.kill()
        run.redis.start()


def _flushed(run: Run) -> None:
    with run.losing():
        _client(run).flushall()


def _client_killed(run: Run) -> None:
    # In the middle of a write, more often than not.
    run.wait_for_burst()
    run.wait(0.0, clients.BURST * clients.PERIOD / 2)
    for place in run.chance.sample(range(PLACES), run.chance.choice([1, 1, 2])):
        run.processes[place].kill()
        run.processes[place].join()
        run.start_client(place)


def _on_lines(fault: Callable[[Proxy], None], least: float, most: float) -> Callable[[Run], None]:
    def befall(run: Run) -> None:
        lines = run.some_lines()
        for line in lines:
            fault(line)
        run.wait(least, most)
        for line in lines:
            line.heal()

    return befall


def _database_cut(run: Run) -> None:
    run.database_line.cut()


def _commit_unanswered(run: Run) -> None:
    for request in (b"COMMIT", b'UPDATE "'):
        run.database_line.lose_answer(request)
        run.database_line.sprung.wait(5)
    run.database_line.heal()


def _client(run: Run) -> Any:
    import redis

    return redis.Redis(port=run.redis.port)


NEMESIS: dict[str, Callable[[Run], None]] = {
    "Redis frozen": _frozen,
    "Redis killed, started empty": _killed,
    "Redis killed, started with old data": _old_data,
    "Redis flushed": _flushed,
    "processes killed": _client_killed,
    "processes killed again": _client_killed,
    "line to Redis slow": _on_lines(lambda line: line.delay(SOCKET_TIMEOUT / 3), 0.3, 0.8),
    "line to Redis cut": _on_lines(Proxy.cut, 0.0, 0.2),
    "line to Redis a black hole": _on_lines(Proxy.swallow, 0.2, 0.8),
    "requests to Redis lost": _on_lines(lambda line: line.swallow(UP), 0.2, 0.8),
    "answers of Redis lost": _on_lines(lambda line: line.swallow(DOWN), 0.2, 0.8),
    "answers of Redis truncated": _on_lines(lambda line: line.truncate(DOWN, 700), 0.2, 0.5),
    "Redis refuses": _on_lines(Proxy.refuse, 0.2, 0.6),
    "line to PostgreSQL cut": _database_cut,
    "COMMIT unanswered": _commit_unanswered,
}
#: Those after which the cache does not know of commits in flight.
FORGETTING = frozenset(
    {"Redis killed, started empty", "Redis killed, started with old data", "Redis flushed"}
)


# The history.


@dataclass
class Window:
    """In which hits on a table may be as old as its beginning."""

    table: str
    began: float
    ended: float
    why: str = "writes untold"


class History:
    """What all processes have written down.

    :param lost: when the cache lost its content.
    """

    def __init__(self, folder: Path, lost: Sequence[tuple[float, float]], result: Result) -> None:
        self.operations: dict[tuple[str, int], list[Operation]] = {}
        self.hits: set[int] = set()
        self.windows: list[Window] = []
        self._last: dict[tuple[str, int], list[Any]] = {}
        for path in sorted(folder.glob("*.log")):
            self._read(path, result)
        self._add_windows_of_lost_marks(lost)
        result.in_windows = sum(
            self._excused(table, one).invoked < one.invoked
            for (table, _pk), operations in self.operations.items()
            for one in operations
        )
        result.windows.update(window.why for window in self.windows)

    def _read(self, path: Path, result: Result) -> None:
        calls: dict[int, tuple[tuple[str, int], Operation]] = {}
        last: dict[tuple[str, int], Any] = {}
        for line in path.read_text().splitlines():
            what, *rest = json.loads(line)
            if what == "call":
                number, kind, (name, pk), value, invoked = rest
                calls[number] = (name, pk), Operation(kind, value, invoked, who=f"{path.stem}:{number}")
            elif what == "back":
                number, outcome, old, responded = rest
                key, one = calls.pop(number)
                result.outcomes[f"writes {outcome}"] += 1
                if outcome != "failed":
                    end = responded if outcome == "done" else NEVER
                    self._add(key, replace(one, responded=end, old=old))
            elif what == "read":
                (name, pk), value, invoked, responded, hit = rest
                made = tuple(value) if isinstance(value, list) else value
                result.outcomes["hits" if hit else "other reads"] += 1
                self._add((name, pk), Operation("read", made, invoked, responded, who=path.stem), hit=hit)
                last[name, pk] = made
            elif what == "untold":
                self.windows.append(Window(*rest))
            elif what == "raised":
                name, expected, text = rest
                result.raised[name] += 1
                if not expected:
                    result.foreign.append(f"{name}: {text}")
            elif what == "counts":
                for key, value in last.items():
                    self._last.setdefault(key, []).append(value)
        for key, one in calls.values():
            result.outcomes["writes killed"] += 1
            self._add(key, one)

    def _add(self, key: tuple[str, int], one: Operation, *, hit: bool = False) -> None:
        self.operations.setdefault(key, []).append(one)
        if hit:
            self.hits.add(id(one))

    def _add_windows_of_lost_marks(self, lost: Sequence[tuple[float, float]]) -> None:
        for (table, _pk), operations in self.operations.items():
            for one in operations:
                if one.kind == "read":
                    continue
                end = min(one.responded, one.invoked + IN_FLIGHT)
                if any(one.invoked < lost_until and end > lost_from for lost_from, lost_until in lost):
                    self.windows.append(Window(table, one.invoked, end, "marks lost"))

    def verdict(self, key: tuple[str, int], final: Any, *, windows: bool) -> str:
        """Why the history of a key is not linearizable; empty if it is."""
        operations = self.operations[key]
        if windows:
            operations = [self._excused(key[0], one) for one in operations]
        if isinstance(final, list):
            refused: object = check_list(operations, tuple(final))
        else:
            # What the database holds at the end is the last read of all.
            end = max(one.responded for one in operations if one.responded != NEVER) + 1
            last = Operation("read", final, end, end, who="the database at the end")
            try:
                refused = check_register([*operations, last], 0)
            except SearchTooLarge as error:
                refused = f"undecided: {error}"
        return "" if refused is None else str(refused)

    def _excused(self, table: str, one: Operation) -> Operation:
        """A hit in a window may be as old as the window."""
        if id(one) not in self.hits:
            return one
        invoked = one.invoked
        for window in self.windows:
            if window.table == table and window.began < one.responded and one.invoked < window.ended:
                invoked = min(invoked, window.began)
        return replace(one, invoked=invoked)

    def last_reads(self, name: str, pk: int) -> list[Any]:
        """What the processes that were there at the end have read last."""
        return [list(one) if isinstance(one, tuple) else one for one in self._last.get((name, pk), [])]


def run(seconds: float, seed: int = 1, *, strict: bool = False, **more: Any) -> Result:
    """Run the workload.

    :param seconds: how long faults are made; recovery and judgement come on top.
    :param strict: whether nothing is excused; there are no faults then that make the cache forget marks.
    :param more: settings of the processes.
    """
    if strict:
        more["CACHALOT_ON_CACHE_FAILURE"] = "raise"
    with ExitStack() as stack:
        return Run(stack, seconds, seed, more, strict=strict).run()


def main(argv: Sequence[str]) -> int:
    """Run, print the report and keep it.

    :returns: the exit status.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.workload", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a setting, as JSON or text"
    )
    parser.add_argument("--strict", action="store_true", help="excuse nothing, and let no mark be lost")
    parser.add_argument("--report", type=Path, default=REPORT, help="where the report is kept")
    asked = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda signum, _frame: sys.exit(128 + signum))
    result = run(asked.seconds, asked.seed, strict=asked.strict, **dict(_setting(one) for one in asked.set))
    asked.report.parent.mkdir(exist_ok=True)
    asked.report.write_text(result.text())
    sys.stdout.write(result.text())
    return 0 if result.good else 1


def _setting(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
