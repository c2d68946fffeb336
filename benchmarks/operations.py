"""What a hit and a write cost, one operation after the other, without cachalot, by tables and by rows.

    python -m benchmarks.operations [--rounds 5] [--blocks 6] [--report reports/operations.txt]

On the forum's PostgreSQL and Redis. In each round every contestant is a new process with a new cache. The
processes then take turns, one at a time, block by block; a ratio is that of two blocks that follow each
other, and the median of all of them is printed, with the quarters below and above. Reads are hits, except
without cachalot.
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

CONTESTANTS = ("none", "tables", "rows")
PAIRS = (("rows", "tables"), ("tables", "none"), ("rows", "none"))


def main() -> int:
    """Measure, print and write the report.

    :returns: the exit status.
    """
    asked = _arguments()
    python = python_of("cachalot")
    blocks: dict[str, dict[str, list[dict[str, float]]]] = {}
    with ExitStack() as stack:
        servers = Servers(stack.enter_context(Postgres()), stack.enter_context(Redis()))
        servers.make_template()
        with Process(python, "none", servers, TEMPLATE) as process:
            process.ask("fill", seed=SEED)
        for number in range(asked.rounds):
            _round(python, servers, blocks, asked)
            print(f"round {number + 1} of {asked.rounds}: done", file=sys.stderr, flush=True)
    text = report(blocks, asked)
    print(text)
    if asked.report is not None:
        asked.report.write_text(text)
    return 0


def _arguments() -> argparse.Namespace:
    summary = str(__doc__).splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.operations", description=summary)
    parser.add_argument("--rounds", type=int, default=5, help="with new processes")
    parser.add_argument("--blocks", type=int, default=6, help="of each operation in a round")
    parser.add_argument("--number", type=int, default=300, help="of operations in a block")
    parser.add_argument("--report", type=Path)
    return parser.parse_args()


def _round(python: Path, servers: Servers, blocks: dict[str, Any], asked: argparse.Namespace) -> None:
    """Let new processes do every operation in turns; each has a database of Redis of its own."""
    servers.renew()
    with ExitStack() as stack:
        processes = {
            name: stack.enter_context(Process(python, name, servers, RUN, place))
            for place, name in enumerate(CONTESTANTS)
        }
        for operation in processes["none"].ask("operations"):
            done = blocks.setdefault(operation, {name: [] for name in CONTESTANTS})
            for _ in range(asked.blocks):
                for name, process in processes.items():
                    done[name].append(process.ask("time", name=operation, number=asked.number))


# ------------------------------------------------------------------------------------------------------------
# The report
# ------------------------------------------------------------------------------------------------------------


def report(blocks: dict[str, dict[str, list[dict[str, float]]]], asked: argparse.Namespace) -> str:
    """Return the tables, one for the clock and one for the processor."""
    head = (
        f"{asked.rounds} rounds of {asked.blocks} blocks of {asked.number} operations, PostgreSQL and Redis "
        "on the same machine.\nMicroseconds are medians; of ratios the median, and the quarters around it.\n"
    )
    return head + "".join(_table(what, blocks) for what in ("clock", "cpu"))


def _table(what: str, blocks: dict[str, dict[str, list[dict[str, float]]]]) -> str:
    titles = "".join(f"{name:>9}" for name in CONTESTANTS)
    ratios = "".join(f"{f'{one} to {other}':>22}" for one, other in PAIRS)
    title = {"clock": "By the clock", "cpu": "Processor time of Django"}[what]
    lines = [f"\n{title:32}{titles}{ratios}"]
    for operation, done in blocks.items():
        times = {name: [block[what] for block in done[name]] for name in CONTESTANTS}
        medians = "".join(f"{statistics.median(times[name]):9.0f}" for name in CONTESTANTS)
        shown = "".join(f"{_ratio(times[one], times[other]):>22}" for one, other in PAIRS)
        lines.append(f"{operation:32}{medians}{shown}")
    return "\n".join(lines) + "\n"


def _ratio(ones: list[float], others: list[float]) -> str:
    low, middle, high = statistics.quantiles(
        [one / other for one, other in zip(ones, others, strict=True)], n=4
    )
    return f"{middle:.2f} ({low:.2f}, {high:.2f})"


if __name__ == "__main__":
    sys.exit(main())
