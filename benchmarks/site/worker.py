"""One process of the forum: ``python -m benchmarks.site.worker``, told what to do by lines of JSON.

Each line is a command, and each is answered by one line. ``run`` carries visits out and says what they have
cost; ``check`` says what every page shows now; ``record`` counts what better caches would have answered;
``time`` does one operation many times.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from typing import Any

PROBE_EVERY = 10


def main() -> None:
    """Answer commands until there are no more."""
    import django

    django.setup()
    for line in sys.stdin:
        command = json.loads(line)
        print(json.dumps(_COMMANDS[command.pop("do")](**command)), flush=True)


def _fill(seed: int) -> str:
    from django.core.management import call_command
    from django.db import connection

    from benchmarks.site.workload import populate

    call_command("migrate", run_syncdb=True, verbosity=0)
    populate(seed)
    connection.close()
    return "filled"


def _ready() -> str:
    """Connect, so that no run pays for it."""
    from django.core.cache import cache
    from django.db import connection

    connection.ensure_connection()
    cache.get("nothing")
    return "ready"


def _run(seed: int, number: int, writes: int, index: int, processes: int) -> dict[str, Any]:
    """Carry out every so many of the visits."""
    from django.db import connection

    from benchmarks.site.probes import Probe
    from benchmarks.site.workload import reads, rows_of, visits, write

    mine = visits(seed, number, writes)[index::processes]
    probe, tally = Probe(), Tally()
    wanted = 0
    probed = {"own": 0, "other": 0}
    stale = {"own": 0, "other": 0}
    cpu = 0.0
    for place, visit in enumerate(mine):
        began = time.process_time()
        if visit.write is not None:
            write(visit)
        with connection.execute_wrapper(tally):
            for read in reads(visit):
                rows_of(read)
                wanted += 1
        cpu += time.process_time() - began
        if visit.write is not None or place % PROBE_EVERY == 0:
            whose = "own" if visit.write is not None else "other"
            old, asked = probe.stale(visit)
            stale[whose] += old
            probed[whose] += asked
    return {
        "visits": len(mine),
        "reads": wanted,
        "selects": tally.selects,
        "cpu": cpu,
        **{f"stale {whose}": number for whose, number in stale.items()},
        **{f"probed {whose}": number for whose, number in probed.items()},
    }


class Tally:
    """Counts the reads that reach the database."""

    def __init__(self) -> None:
        self.selects = 0

    def __call__(self, execute: Any, sql: Any, params: Any, many: Any, context: Any) -> Any:
        """Count one statement."""
        text = str(sql)
        self.selects += text.startswith("SELECT") and not text.endswith("FOR UPDATE")
        return execute(sql, params, many, context)


def _check(seed: int, number: int) -> list[str]:
    """Return a digest of every statement of the first visits, as it is answered now."""
    from benchmarks.site.recording import _plain
    from benchmarks.site.workload import reads, rows_of, visits

    return [
        hashlib.blake2b(repr(_plain(rows_of(read))).encode(), digest_size=8).hexdigest()
        for visit in visits(seed, number, 0)
        for read in reads(visit)
    ]


def _record(seed: int, number: int, writes: int) -> dict[str, float]:
    from benchmarks.site.recording import recorded
    from benchmarks.site.workload import visits

    return recorded(visits(seed, number, writes))


def _operations() -> list[str]:
    from benchmarks.site.operations import READS, WRITES

    return [*READS, *WRITES]


def _time(name: str, number: int) -> dict[str, float]:
    from benchmarks.site.operations import timed

    return timed(name, number)


_COMMANDS: dict[str, Any] = {
    "fill": _fill,
    "ready": _ready,
    "run": _run,
    "check": _check,
    "record": _record,
    "operations": _operations,
    "time": _time,
}

if __name__ == "__main__":
    main()
