"""Runs the tests over the pairs of databases and caches, on private servers that end with it.

    python -m tests.run [--pairs DATABASE:CACHE,…] [--only PATH …] [--thorough] [-- PYTEST ARGUMENT …]

Prints one line per pair and last the sum over all. What pytest printed is in reports/logs/; its end is also
shown for pairs that failed. Some pairs run at a time.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from tests.servers import MariaDB, Memcached, Postgres, Redis, Server, ServerError
from tests.servers.base import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / "reports" / "logs" / os.environ.get("CACHALOT_TEST_LOGS", "")
#: One more than there are processors: tests of servers wait for most of their time.
AT_A_TIME = (os.cpu_count() or 1) + 1
#: How much of a failed pair's log is shown.
SHOWN_LINES = 80
#: pytest's exit status when it found nothing to run.
NO_TESTS = 5


class Pair(NamedTuple):
    """A database and a cache, as CACHALOT_TEST_DB and CACHALOT_TEST_CACHE name them."""

    database: str
    cache: str

    def __str__(self) -> str:
        return f"{self.database}:{self.cache}"


#: These run every test.
FULL_PAIRS = (Pair("sqlite", "locmem"), Pair("postgresql", "redis"))
#: These run most suites: every other database and driver, each with a cache of another kind.
IMPORTANT = {
    Pair("mariadb", "redis"): ("tests/acceptance", "tests/algebra", "tests/stateful"),
    Pair("psycopg2", "pylibmc"): ("tests/acceptance",),
}
#: These run the suites in RACES: what depends on how a cache behaves.
RACE_PAIRS = (
    Pair("sqlite", "file"),
    Pair("sqlite", "python-memcached"),
    Pair("postgresql", "locmem"),
    Pair("postgresql", "django-redis"),
    Pair("postgresql", "pymemcache"),
    Pair("psycopg2", "redis"),
    Pair("mariadb", "locmem"),
    Pair("mariadb", "django-redis-ignore"),
    Pair("mariadb", "pymemcache"),
)
PAIRS = (*FULL_PAIRS, *IMPORTANT, *RACE_PAIRS)
RACES = (
    "tests/acceptance/test_races.py",
    "tests/acceptance/test_signal.py",
    "tests/acceptance/test_scopes.py",
    "tests/acceptance/test_precision.py",
)
#: What no pair can change runs once, with the first pair of all.
UNIT = (
    "tests/analysis",
    "tests/codecs",
    "tests/contract",
    "tests/core",
    "tests/demo",
    "tests/fuzz",
    "tests/model",
    "tests/servers",
    "tests/surface",
)

DATABASE_SERVERS: dict[str, type[Server]] = {"postgresql": Postgres, "psycopg2": Postgres, "mariadb": MariaDB}
REDIS_CACHES = {"redis", "django-redis", "django-redis-ignore"}
MEMCACHED_CACHES = {"pymemcache", "pylibmc", "python-memcached"}


@dataclass
class Outcome:
    """What became of one pair."""

    pair: Pair
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    note: str = ""
    log: Path | None = None

    @property
    def line(self) -> str:
        """What is printed about it."""
        counts = f"{self.passed:6d} passed {self.failed:5d} failed {self.skipped:5d} skipped"
        return f"{self.pair!s:<34}{counts} {self.seconds:8.1f} s{self.note and '  ' + self.note}"


@dataclass
class Servers:
    """The servers of this run: one of each kind, but a memcached per pair, since clearing empties it."""

    stack: contextlib.ExitStack
    shared: dict[type[Server], Server] = field(default_factory=dict)
    memcached: dict[Pair, Server] = field(default_factory=dict)

    def start(self, pairs: Sequence[Pair]) -> None:
        """Start what the pairs need, from the main thread, with which they would end."""
        for pair in pairs:
            for kind in servers_of(pair):
                if kind is Memcached:
                    self.memcached[pair] = self.stack.enter_context(kind())
                elif kind not in self.shared:
                    self.shared[kind] = self.stack.enter_context(kind())

    def environment(self, pair: Pair) -> dict[str, str]:
        """The variables that tests/settings.py reads."""
        found = {}
        for variable, kind in (("POSTGRES", Postgres), ("MARIADB", MariaDB), ("REDIS", Redis)):
            if kind in self.shared:
                user = getattr(kind, "user", None)
                found[f"CACHALOT_TEST_{variable}"] = self.shared[kind].address + (f":{user}" if user else "")
        if pair in self.memcached:
            found["CACHALOT_TEST_MEMCACHED"] = self.memcached[pair].address
        return found


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line; everything after ``--`` is for pytest."""
    cut = argv.index("--") if "--" in argv else len(argv)
    parser = argparse.ArgumentParser(prog="python -m tests.run", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--pairs", type=parse_pairs, help="DATABASE:CACHE, comma between them; all by default"
    )
    parser.add_argument("--thorough", action="store_true", help="run all of acceptance on every pair")
    parser.add_argument("--only", nargs="+", default=[], metavar="PATH", help="run these, on every pair")
    parsed = parser.parse_args(argv[:cut])
    parsed.pytest = list(argv[cut + 1 :])
    return parsed


def parse_pairs(text: str) -> list[Pair]:
    """``a:b,c:d`` as pairs; tests/settings.py knows which names there are."""
    return [Pair(*pair.split(":")) for pair in text.split(",")]


def servers_of(pair: Pair) -> list[type[Server]]:
    """The kinds of server a pair needs."""
    kinds = [DATABASE_SERVERS[pair.database]] if pair.database in DATABASE_SERVERS else []
    if pair.cache in REDIS_CACHES:
        kinds.append(Redis)
    if pair.cache in MEMCACHED_CACHES:
        kinds.append(Memcached)
    return kinds


def present(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs whose servers are installed: the others are left out, and in CI they are an error.

    :raises ServerError: in CI, when a server is not installed.
    """
    found = []
    for pair in pairs:
        absent = [kind.name for kind in servers_of(pair) if not kind.available()]
        if absent and os.environ.get("CI"):
            raise ServerError(f"not installed: {', '.join(absent)}")
        if absent:
            print(f"{pair!s:<34}left out, not installed: {', '.join(absent)}")
        else:
            found.append(pair)
    return found


def selections(pairs: Sequence[Pair], only: Sequence[str], *, thorough: bool) -> dict[Pair, list[str]]:
    """What each pair runs, as arguments of pytest; pairs without any test are left out."""
    unit_pair = next((pair for pair in pairs if pair in FULL_PAIRS), None)
    found = {}
    for pair in pairs:
        if only:
            found[pair] = list(only)
        elif pair in FULL_PAIRS:
            found[pair] = ["tests", *(f"--ignore={path}" for path in UNIT if pair != unit_pair)]
        else:
            found[pair] = list(IMPORTANT.get(pair, ("tests/acceptance",) if thorough else RACES))
    return found


@dataclass
class Job:
    """One pytest process."""

    pair: Pair
    selection: list[str]
    environment: dict[str, str]
    pytest: list[str]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0

    @property
    def log(self) -> Path:
        """What pytest printed."""
        return LOGS / f"{self.pair.database}-{self.pair.cache}.log"

    @property
    def report(self) -> Path:
        """The sums, and the time that each test took."""
        return self.log.with_suffix(".xml")

    def start(self) -> None:
        """Its own cache directory, for two of them run at a time."""
        command = [
            *(
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "--tb=short",
                "--durations=20",
                "--continue-on-collection-errors",
                *self.selection,
            ),
            *("--color=no", f"--junit-xml={self.report}"),
            *("-o", f"cache_dir=.pytest_cache/{self.pair.database}-{self.pair.cache}"),
            *self.pytest,
        ]
        self.report.unlink(missing_ok=True)
        self.started = time.monotonic()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent(signal.SIGTERM),  # noqa: PLW1509  # one prctl call, no threads here
            )

    def outcome(self) -> Outcome | None:
        """None while it runs."""
        if self.process is None or self.process.poll() is None:
            return None
        outcome = Outcome(self.pair, seconds=time.monotonic() - self.started, log=self.log)
        if self.report.exists():
            count(self.report, outcome)
        elif self.process.returncode != NO_TESTS:
            outcome.failed, outcome.note = 1, f"pytest ended with {self.process.returncode} and no report"
        if self.process.returncode not in {0, NO_TESTS} and not outcome.failed:
            outcome.failed, outcome.note = 1, f"pytest ended with {self.process.returncode}"
        return outcome

    def end(self) -> None:
        """Stop it, for the whole run was stopped."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait()


def count(report: Path, outcome: Outcome) -> None:
    """Read the sums from pytest's JUnit report; a test with an error around it failed."""
    for suite in ET.parse(report).iter("testsuite"):
        failed = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        skipped = int(suite.get("skipped", 0))
        outcome.failed += failed
        outcome.skipped += skipped
        outcome.passed += max(0, int(suite.get("tests", 0)) - failed - skipped)


def run_jobs(jobs: Sequence[Job]) -> list[Outcome]:
    """Run them, some at a time, and print a line as each one ends."""
    waiting, running, outcomes = list(jobs), list[Job](), list[Outcome]()
    try:
        while waiting or running:
            while waiting and len(running) < AT_A_TIME:
                running.append(waiting.pop(0))
                running[-1].start()
            time.sleep(0.1)
            for job in list(running):
                if outcome := job.outcome():
                    running.remove(job)
                    outcomes.append(outcome)
                    print(outcome.line, flush=True)
    finally:
        for job in running:
            job.end()
    return outcomes


def make_jobs(
    servers: Servers, selected: dict[Pair, list[str]], pytest_arguments: list[str], folder: Path
) -> list[Job]:
    """One job per pair, each with a slot of its own on the shared servers."""
    jobs = []
    for slot, (pair, selection) in enumerate(selected.items()):
        directory = folder / str(slot)
        directory.mkdir()
        environment = {
            **os.environ,
            **servers.environment(pair),
            "CACHALOT_TEST_DB": pair.database,
            "CACHALOT_TEST_CACHE": pair.cache,
            "CACHALOT_TEST_SLOT": str(slot),
            "CACHALOT_TEST_DIR": str(directory),
        }
        jobs.append(Job(pair, selection, environment, pytest_arguments))
    return jobs


def print_failures(outcomes: Sequence[Outcome]) -> None:
    """The end of the log of each pair that failed, with pytest's own list of what failed last."""
    for outcome in outcomes:
        if outcome.failed and outcome.log is not None:
            lines = outcome.log.read_text(errors="replace").splitlines()[-SHOWN_LINES:]
            print(
                f"\n===== {outcome.pair}: the end of {outcome.log.relative_to(ROOT)} =====", *lines, sep="\n"
            )


def leave(signum: int, frame: FrameType | None) -> NoReturn:
    """SIGTERM ends the run as an exception would: the servers stop, the directories go."""
    sys.exit(128 + signum)


def main(argv: Sequence[str]) -> int:
    """Run everything asked for; the last line printed is the sum.

    :returns: the exit status, 0 when something ran and nothing failed.
    """
    asked = arguments(argv)
    signal.signal(signal.SIGTERM, leave)
    LOGS.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cachalot-run-")))
        servers = Servers(stack)
        try:
            selected = selections(present(asked.pairs or PAIRS), asked.only, thorough=asked.thorough)
            servers.start(list(selected))
        except ServerError as error:
            print(f"{error}; `make test` installs what is missing.", file=sys.stderr)
            return 1
        outcomes = run_jobs(make_jobs(servers, selected, asked.pytest, folder))
    print_failures(outcomes)
    passed = sum(outcome.passed for outcome in outcomes)
    failed = sum(outcome.failed for outcome in outcomes)
    print(f"{passed} passed, {failed} failed")
    return 0 if passed and not failed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
