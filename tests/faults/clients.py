"""One process of the register workload: reads and writes at random, and writes down what it was answered.

Each line of its log is a JSON list, written by one system call, so that SIGKILL loses none:

    ["call", number, kind, key, value, invoked]      before a write
    ["back", number, outcome, old, responded]        after it: "done", "failed" or "unknown"
    ["read", key, value, invoked, responded, hit]    after a read
    ["raised", class, is one of Django's, text]
    ["untold", key, since, until]                    the cache had not heard of writes, and then had

Times are of CLOCK_MONOTONIC, which is one for all processes of a machine. A write whose block raised before
its COMMIT has failed; whatever else raises may have happened.

A read in REPEATABLE READ is written down as if it had been called when its transaction began and had returned
with the first read of it: that is when the snapshot was taken, so that is when what it says must have been.
"""

from __future__ import annotations

import json
import logging
import os
import random
import time
from typing import TYPE_CHECKING, Any

from tests.faults import worker

if TYPE_CHECKING:
    from collections.abc import Callable

#: Writes of one process; values of several processes never meet.
WRITES_PER_CLIENT = 100_000
#: Writes come in bursts, at the same time in all processes: what is stale between them stays stale for long.
PERIOD = 1.0
BURST = 0.35
WRITE_SHARE = 0.4
SNAPSHOT_SHARE = 0.05
#: In so many of all cases a process lingers at a point where others can come in between, for so many seconds.
LINGER_SHARE = 0.08
LINGER = 0.03
LINGER_AT = frozenset(
    {"after MARK", "before COMMIT", "after COMMIT", "before DONE", "after QUERY", "before FILL"}
)
SNAPSHOT = "snapshots"

Key = tuple[str, int]


def in_burst() -> bool:
    """Whether this is a time to write."""
    return time.monotonic() % PERIOD < BURST


class Lingering(worker.Points):
    """Points at which a process may linger instead of stopping.

    :ivar marks: how many writes the cache was told of before their commit.
    """

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.marks = 0

    def reach(self, point: str) -> None:
        """Linger here, by chance."""
        if point in LINGER_AT and self._chance.random() < LINGER_SHARE:
            time.sleep(self._chance.random() * LINGER)

    def succeeded(self, step: str) -> None:
        """Count marks."""
        self.marks += step == "MARK"


class Client:
    """The operations of one process.

    :param number: no other process, alive or dead, has the same.
    :param keys: the rows of each table, by the name of its model.
    :param path: of the log.
    :param points: its yield points.
    """

    def __init__(self, number: int, keys: dict[str, list[int]], path: str, points: Lingering) -> None:
        from tests.faults.registers.models import Counter, Journal, Register

        self.number = number
        self.keys = keys
        self.models: dict[str, Any] = {"Register": Register, "Counter": Counter, "Journal": Journal}
        self.chance = random.Random(number)
        self.calls = 0
        self._points = points
        self._log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._untold_since: dict[str, float] = {}

    def note(self, *line: Any) -> None:
        """Write a line down."""
        os.write(self._log, (json.dumps(line) + "\n").encode())

    def step(self) -> None:
        """Do something."""
        if in_burst() and self.chance.random() < WRITE_SHARE:
            self._write()
        elif self.chance.random() < SNAPSHOT_SHARE:
            self._reading(self.read_snapshot)
        else:
            self._reading(self.chance.choice([self.read_one, self.read_table, self.read_in_block]))
        self._note_untold()

    # Reads.

    def _reading(self, read: Callable[[], None]) -> None:
        try:
            read()
        except Exception as error:  # noqa: BLE001 - the report says which
            self._raised(error)

    def _some_key(self) -> Key:
        name = self.chance.choice(sorted(self.keys))
        return name, self.chance.choice(self.keys[name])

    def _get(self, key: Key, using: str = "default") -> tuple[Any, bool]:
        """What is there, and whether it came from the cache."""
        from cachalot.testing import watch

        with watch() as seen:
            row = self.models[key[0]].objects.using(using).get(pk=key[1])
        return _value(row), bool(seen.hits)

    def read_one(self) -> None:
        """One row."""
        key = self._some_key()
        invoked = time.monotonic()
        value, hit = self._get(key)
        self.note("read", key, value, invoked, time.monotonic(), hit)

    def read_table(self) -> None:
        """All rows of a table, in one statement."""
        from cachalot.testing import watch

        name, _pk = self._some_key()
        invoked = time.monotonic()
        with watch() as seen:
            rows = list(self.models[name].objects.order_by("pk"))
        responded = time.monotonic()
        for row in rows:
            self.note("read", (name, row.pk), _value(row), invoked, responded, bool(seen.hits))

    def read_in_block(self) -> None:
        """Two rows in a transaction, of which each statement sees the newest state."""
        from django.db import transaction

        with transaction.atomic():
            self.read_one()
            self.read_one()

    def read_snapshot(self) -> None:
        """Several rows in a transaction that sees one state, some of them twice."""
        from django.db import transaction

        keys = [self._some_key() for _ in range(3)]
        found = []
        began = time.monotonic()
        chosen = 0.0
        with transaction.atomic(using=SNAPSHOT):
            for key in (*keys, *keys):
                value, hit = self._get(key, SNAPSHOT)
                chosen = chosen or time.monotonic()
                found.append((key, value, hit))
        for key, value, hit in found:
            self.note("read", key, value, began, chosen, hit)

    def read_everything(self) -> None:
        """Every row, when all is over."""
        for name, pks in self.keys.items():
            for pk in pks:
                invoked = time.monotonic()
                value, hit = self._get((name, pk))
                self.note("read", (name, pk), value, invoked, time.monotonic(), hit)

    # Writes.

    def _write(self) -> None:
        self.calls += 1
        key = self._some_key()
        fresh = self.number * WRITES_PER_CLIENT + self.calls
        forms = {
            "Register": [self.save, self.update, self.add_under_lock],
            "Counter": [self.add, self.add_by_save, self.add_under_lock],
            "Journal": [self.append, self.append_under_lock],
        }[key[0]]
        form = self.chance.choice(forms)
        kind = {"Register": "write", "Counter": "add", "Journal": "append"}[key[0]]
        kind, value = ("add", 1) if form == self.add_under_lock else (kind, 1 if kind == "add" else fresh)
        self._call(key, kind, value, form)

    def _call(self, key: Key, kind: str, value: int, form: Callable[..., int | None]) -> None:
        """Make a write, in a transaction or not, and write down what is known about it."""
        from django.db import transaction

        in_block = form in {self.add_under_lock, self.append_under_lock} or self.chance.random() < 0.5
        old, at_end, marks = None, not in_block, self._points.marks
        invoked = time.monotonic()
        self.note("call", self.calls, kind, key, value, invoked)
        try:
            if in_block:
                with transaction.atomic():
                    old = form(key, value)
                    at_end = True
            else:
                old = form(key, value)
            outcome = "done"
        except Exception as error:  # noqa: BLE001 - the report says which
            self._raised(error)
            # The one error of our own says that nothing was written.
            refused = type(error).__name__ == "CacheUnavailableError"
            outcome = "unknown" if at_end and not refused else "failed"
        self.note("back", self.calls, outcome, old, time.monotonic())
        if _undelivered() or (self._points.marks == marks and outcome != "failed"):
            self._untold_since.setdefault(key[0], invoked)

    def save(self, key: Key, value: int) -> None:
        """Read, change, save: what was read may be from the cache."""
        row = self.models[key[0]].objects.get(pk=key[1])
        row.value = value
        row.save()

    def update(self, key: Key, value: int) -> None:
        """One statement."""
        self.models[key[0]].objects.filter(pk=key[1]).update(value=value)

    def add(self, key: Key, value: int) -> None:
        """One statement that the database computes."""
        from django.db.models import F

        self.models[key[0]].objects.filter(pk=key[1]).update(value=F("value") + value)

    def add_by_save(self, key: Key, value: int) -> None:
        """The same by save()."""
        from django.db.models import F

        row = self.models[key[0]].objects.get(pk=key[1])
        row.value = F("value") + value
        row.save()

    def add_under_lock(self, key: Key, value: int) -> int:
        """Read under a lock, change, save; returns what was there before."""
        row = self.models[key[0]].objects.select_for_update().get(pk=key[1])
        old = row.value
        row.value += value
        row.save()
        return old

    def append(self, key: Key, value: int) -> None:
        """One statement."""
        from django.db.models import F, Value
        from django.db.models.functions import Concat

        self.models[key[0]].objects.filter(pk=key[1]).update(
            elements=Concat(F("elements"), Value(f"{value},"))
        )

    def append_under_lock(self, key: Key, value: int) -> None:
        """Read under a lock, change, save."""
        row = self.models[key[0]].objects.select_for_update().get(pk=key[1])
        row.elements += f"{value},"
        row.save()

    # What goes wrong.

    def _raised(self, error: Exception) -> None:
        from django.db import Error, connections

        self.note("raised", type(error).__name__, isinstance(error, Error), str(error)[:200])
        connections.close_all()

    def _note_untold(self) -> None:
        """Write down when writes were told at last that the cache did not hear of."""
        if self._untold_since and not _undelivered():
            for name, since in self._untold_since.items():
                self.note("untold", name, since, time.monotonic())
            self._untold_since.clear()


def _value(row: Any) -> Any:
    return elements(row.elements) if hasattr(row, "elements") else row.value


def elements(text: str) -> list[int]:
    """The elements of a list, from the text in which it is kept."""
    return [int(one) for one in text.split(",")[:-1]]


def _undelivered() -> int:
    from tests.faults import actions

    return actions.undelivered()


def run(
    number: int,
    values: dict[str, Any],
    keys: dict[str, list[int]],
    path: str,
    steps: Any,
    pending: Any,
    phase: Any,
    waiting: Any,
) -> None:
    """Be a client until it is told to end.

    :param steps: shared counters of steps, one for each place; its length is the number of places.
    :param pending: shared flags that say whether there are writes the cache has not heard of.
    :param phase: shared: 0 to go on, 1 to wait, 2 to read everything once and end.
    :param waiting: shared flags that say who waits.
    """
    points = Lingering(random.Random(-number))
    worker.stop_at_commits(points)
    worker.configure(values)
    worker.install(points)
    logging.getLogger("cachalot").setLevel(logging.ERROR)  # that the cache is away is on purpose here
    client = Client(number, keys, path, points)
    place = number % len(steps)
    while phase.value == 0:
        client.step()
        pending[place] = bool(client._untold_since)
        steps[place] += 1
    waiting[place] = 1
    while phase.value == 1:
        time.sleep(0.01)
    client.read_everything()
    from tests.faults import actions

    client.note("counts", actions.counts())
