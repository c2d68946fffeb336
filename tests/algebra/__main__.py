"""The fuzz for as long as one likes, on private servers: ``python -m tests.algebra --pairs 100000``."""

from __future__ import annotations

import argparse
import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.servers import MariaDB, Postgres, Server

WORLDS = 4
"""How many worlds are seen with rows before they are seen with tables."""

SERVERS: dict[str, type[Server]] = {"postgresql": Postgres, "mariadb": MariaDB}


def main() -> int:
    """Run the fuzz on one database and print what it has shown.

    :returns: the exit status, 0 when nothing is wrong.
    """
    asked = _arguments()
    os.environ.update(DJANGO_SETTINGS_MODULE="tests.settings", CACHALOT_TEST_DB=asked.database)
    kind = SERVERS.get(asked.database)
    with ExitStack() as stack:
        if kind is not None:
            server: Any = stack.enter_context(kind())
            os.environ[f"CACHALOT_TEST_{kind.__name__.upper()}"] = f"{server.address}:{server.user}"
        text, failed = _in_a_database(asked)
    sys.stdout.write(text)
    return int(failed)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.algebra", description=__doc__)
    parser.add_argument("--database", choices=["sqlite", *SERVERS], default="sqlite")
    parser.add_argument("--pairs", type=int, default=100_000, help="with rows, and as many with tables")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--world", type=int, default=0, help="the first: a violation says in which it was")
    parser.add_argument("--mutants", action="store_true", help="wrong algebras in the place of ours")
    parser.add_argument("--minutes", type=float, default=600, help="after which it ends, with what it has")
    parser.add_argument("--report", type=Path, help="written anew all the time")
    return parser.parse_args()


def _in_a_database(asked: argparse.Namespace) -> tuple[str, bool]:
    import django
    from django.test.runner import DiscoverRunner

    django.setup()
    head = f"{asked.database}, Django {django.__version__}, seed {asked.seed}, from world {asked.world}"
    runner = DiscoverRunner(verbosity=0, interactive=False)
    databases = runner.setup_databases()
    try:
        return (_mutants if asked.mutants else _ours)(asked, head)
    finally:
        runner.teardown_databases(databases)


def _ours(asked: argparse.Namespace, head: str) -> tuple[str, bool]:
    """Alternate between rows and tables, which see the same worlds."""
    from django.test import override_settings

    from tests.algebra.fuzz import PAIRS_PER_WORLD, Outcome, fuzz
    from tests.algebra.report import complaints, complaints_about_usual_reads, text_of

    outcomes = {"row": Outcome(), "table": Outcome()}
    rows, tables = outcomes.values()
    world, text, end = asked.world, "", time.monotonic() + 60 * asked.minutes
    while rows.pairs < asked.pairs and not rows.violations + tables.violations and time.monotonic() < end:
        for granularity, outcome in outcomes.items():
            with override_settings(CACHALOT_GRANULARITY=granularity):
                outcome.add(fuzz(asked.seed, WORLDS * PAIRS_PER_WORLD, world=world))
        world += WORLDS
        text = text_of(head, rows, tables)
        _write(asked, text)
    broken = complaints(rows, tables) + complaints_about_usual_reads(rows)
    return text, bool(rows.violations or tables.violations or broken)


def _write(asked: argparse.Namespace, text: str) -> None:
    if asked.report:
        asked.report.parent.mkdir(parents=True, exist_ok=True)
        asked.report.write_text(text)


def _mutants(asked: argparse.Namespace, head: str) -> tuple[str, bool]:
    from tests.algebra.fuzz import fuzz
    from tests.algebra.mutants import ALL

    lines, survived = [head], False
    for mutant, shapes in ALL.items():
        with mutant():
            outcome = fuzz(asked.seed, asked.pairs, world=asked.world, shapes=shapes, stop=1)
        survived |= not outcome.violations
        found = "found" if outcome.violations else "SURVIVED"
        lines.append(f"{mutant.__name__:50}{found} in {outcome.pairs} pairs, {outcome.seconds:.0f} s")
        _write(asked, "\n".join(lines) + "\n")
    return "\n".join(lines) + "\n", survived


if __name__ == "__main__":
    sys.exit(main())
