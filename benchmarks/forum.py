"""A forum under load, without a cache, with cachalot, and with its rivals.

    python -m benchmarks.forum [--rounds 3] [--report reports/forum.txt]

Several processes share the visits of a forum (``site.workload``) on a PostgreSQL and a Redis of their own,
with more and more visits that write. For each contestant it prints which share of the reads was a hit, how
many SELECTs and how many milliseconds of the processor a request has cost, and how much of what it said was
stale: after own writes, after the writes of others, and after the load has ended. Beside that stands what a
perfect cache could have answered, and what rules of lesser precision could have (``site.recording``).

The processor time is that of the processes of Django alone. Contestants take turns, round by round, and the
median of the rounds is printed, also as a ratio to no cache in the same round.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.environments import python_of
from benchmarks.processes import RUN, SEED, TEMPLATE, Process, Servers
from tests.servers import Postgres, Redis

ENVIRONMENTS = {
    "none": "cachalot",
    "tables": "cachalot",
    "rows": "cachalot",
    "django-cachalot": "django-cachalot",
    "django-cacheops": "django-cacheops",
}
SHOWN = {
    "none": "no cache",
    "tables": "cachalot, tables",
    "rows": "cachalot, rows",
    "django-cachalot": "django-cachalot 2.9.1",
    "django-cacheops": "django-cacheops 7.2",
}
RATES = (0, 1, 10, 50, 200, 1000)
CHECKED = 300
OURS = {"rows", "tables"}
WHEN = ("own", "other", "after")


def main() -> int:
    """Run everything, print it, and write the report.

    :returns: the exit status, 0 if nothing that cachalot said was stale.
    """
    asked = _arguments()
    pythons = {name: python_of(name) for name in set(ENVIRONMENTS.values())}
    with ExitStack() as stack:
        servers = Servers(stack.enter_context(Postgres()), stack.enter_context(Redis()))
        servers.make_template()
        with Process(pythons["cachalot"], "none", servers, TEMPLATE) as process:
            process.ask("fill", seed=SEED)
        bench = Bench(asked, pythons, servers)
        results = {rate: bench.measured(rate) for rate in asked.rates}
    text = report(asked, results)
    print(text)
    if asked.report is not None:
        asked.report.write_text(text)
    ours = [
        run
        for result in results.values()
        for name in OURS & result["runs"].keys()
        for run in result["runs"][name]
    ]
    return int(any(run[f"stale {when}"] for run in ours for when in WHEN))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.forum", description=__doc__.splitlines()[0])
    parser.add_argument("--visits", type=int, default=3000, help="of all processes together")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rates", type=int, nargs="+", default=RATES, help="writes in 1000 visits")
    parser.add_argument("--only", nargs="+", choices=ENVIRONMENTS, default=tuple(ENVIRONMENTS))
    parser.add_argument("--report", type=Path)
    return parser.parse_args()


class Bench:
    """Runs contestants.

    :param asked: the arguments.
    :param pythons: of each environment.
    :param servers: for all of them.
    """

    def __init__(self, asked: argparse.Namespace, pythons: dict[str, Path], servers: Servers) -> None:
        self.asked, self.pythons, self.servers = asked, pythons, servers

    def measured(self, rate: int) -> dict[str, Any]:
        """Run every contestant at one rate of writes, round by round."""
        self.servers.renew()
        with self._process("none") as process:
            bounds = process.ask("record", seed=SEED, number=self.asked.visits, writes=rate)
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in self.asked.only}
        for _ in range(self.asked.rounds):
            for name, done in runs.items():
                done.append(self._run(name, rate))
        print(f"{rate} writes in 1000: done", file=sys.stderr, flush=True)
        return {"bounds": bounds, "runs": runs}

    def _process(self, contestant: str) -> Process:
        return Process(self.pythons[ENVIRONMENTS[contestant]], contestant, self.servers, RUN)

    def _run(self, contestant: str, rate: int) -> dict[str, Any]:
        self.servers.renew()
        number = self.asked.processes
        with ExitStack() as stack:
            processes = [stack.enter_context(self._process(contestant)) for _ in range(number)]
            for process in processes:
                process.ask("ready")
            for index, process in enumerate(processes):
                process.tell(
                    "run", seed=SEED, number=self.asked.visits, writes=rate, index=index, processes=number
                )
            parts = [process.answer() for process in processes]
            run = {key: sum(part[key] for part in parts) for key in parts[0]}
            truth = stack.enter_context(self._process("none")).ask("check", seed=SEED, number=CHECKED)
            said = [process.ask("check", seed=SEED, number=CHECKED) for process in processes]
        pairs = [pair for answers in said for pair in zip(answers, truth, strict=True)]
        run["probed after"] = len(pairs)
        run["stale after"] = sum(one != true for one, true in pairs)
        return run


# ------------------------------------------------------------------------------------------------------------
# The report
# ------------------------------------------------------------------------------------------------------------


def report(asked: argparse.Namespace, results: dict[int, dict[str, Any]]) -> str:
    """Return the tables."""
    head = (
        f"{asked.visits} visits by {asked.processes} processes, {asked.rounds} rounds, PostgreSQL and Redis "
        "on the same machine. Medians of the rounds; what was stale is the sum.\n"
    )
    return head + "".join(_table(rate, result) for rate, result in results.items())


def _table(rate: int, result: dict[str, Any]) -> str:
    bounds, runs = result["bounds"], result["runs"]
    limits = ", ".join(f"{name} {share:.1%}" for name, share in bounds.items())
    lines = [
        f"\n{rate} writes in 1000 visits. Could be hits: {limits}",
        (
            f"{'':24}{'hits':>8}{'of perfect':>12}{'SELECTs':>9}{'CPU ms':>8}{'ratio':>7}"
            "   stale after own writes, of others, after the load"
        ),
    ]
    lines += [_line(name, done, runs.get("none"), bounds["perfect"]) for name, done in runs.items()]
    return "\n".join(lines) + "\n"


def _line(name: str, runs: list[dict[str, Any]], without: list[dict[str, Any]] | None, perfect: float) -> str:
    hits = statistics.median(1 - run["selects"] / run["reads"] for run in runs)
    selects = statistics.median(run["selects"] / run["visits"] for run in runs)
    cpu = [1000 * run["cpu"] / run["visits"] for run in runs]
    ratio = ""
    if without is not None:
        pairs = zip(runs, without, strict=True)
        ratio = f"{statistics.median(run['cpu'] / other['cpu'] for run, other in pairs):.2f}"
    stale = ", ".join(
        f"{sum(run[f'stale {when}'] for run in runs)} of {sum(run[f'probed {when}'] for run in runs)}"
        for when in WHEN
    )
    return (
        f"{SHOWN[name]:24}{hits:8.1%}{hits / perfect:12.1%}{selects:9.2f}{statistics.median(cpu):8.2f}"
        f"{ratio:>7}   {stale}"
    )


if __name__ == "__main__":
    sys.exit(main())
