"""The fuzz for as long as one likes, on private servers: ``python -m tests.algebra --pairs 100000``."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.servers import MariaDB, Postgres, Server

if TYPE_CHECKING:
    from tests.algebra.fuzz import Outcome

SERVERS: dict[str, type[Server]] = {"postgresql": Postgres, "mariadb": MariaDB}


def main() -> int:
    """Run the fuzz on one database and print what it has shown."""
    parser = argparse.ArgumentParser(prog="python -m tests.algebra", description=__doc__)
    parser.add_argument("--database", choices=["sqlite", *SERVERS], default="sqlite")
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--report", type=Path)
    asked = parser.parse_args()
    os.environ.update(DJANGO_SETTINGS_MODULE="tests.settings", CACHALOT_TEST_DB=asked.database)
    kind = SERVERS.get(asked.database)
    if kind is None:
        text, failed = _report(asked)
    else:
        with kind() as server:
            os.environ[f"CACHALOT_TEST_{kind.__name__.upper()}"] = _address(server)
            text, failed = _report(asked)
    sys.stdout.write(text)
    if asked.report:
        asked.report.write_text(text)
    return failed


def _address(server: Any) -> str:
    return f"{server.address}:{server.user}"


def _report(asked: Any) -> tuple[str, int]:
    import django
    from django.test.runner import DiscoverRunner

    django.setup()
    runner = DiscoverRunner(verbosity=0, interactive=False)
    databases = runner.setup_databases()
    try:
        return _run(asked)
    finally:
        runner.teardown_databases(databases)


def _run(asked: Any) -> tuple[str, int]:
    import django
    from django.test import override_settings

    from tests.algebra.fuzz import fuzz

    rows = fuzz(asked.seed, asked.pairs)
    with override_settings(CACHALOT_GRANULARITY="table"):
        tables = fuzz(asked.seed, asked.pairs // 10)
    head = f"{asked.database}, Django {django.__version__}, seed {asked.seed}"
    lines = [
        head,
        _summary("row", rows),
        _summary("table", tables),
        "",
        "P(a write ends a result it does not change)",
    ]
    lines += [
        f"{name:24}{rows.probability(*shape):>8.3f}{tables.probability(*shape):>8.3f}"
        for name, shape in _shapes(rows)
    ]
    lines += rows.violations + tables.violations
    return "\n".join(lines) + "\n", len(rows.violations) + len(tables.violations)


def _shapes(rows: Outcome) -> list[tuple[str, tuple[str, ...]]]:
    return [("all", ()), *((name, (name,)) for name in sorted(rows.killed | rows.spared))]


def _summary(name: str, outcome: Outcome) -> str:
    return (
        f"{name:6} {outcome.pairs} pairs, {outcome.changed} results changed, {outcome.writes} writes, "
        f"{len(outcome.violations)} violations, {outcome.seconds:.0f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
