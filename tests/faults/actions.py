"""What workers are told to do; imported once Django is configured."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.core.management import call_command
from django.db import connection, transaction
from django.db.models import F

from cachalot.api import cachalot_disabled, invalidate, stats, switch_off, switch_on
from cachalot.testing import watch
from tests.faults.clients import elements
from tests.faults.registers.models import Register

if TYPE_CHECKING:
    from collections.abc import Callable


def migrate() -> None:
    """Make the tables."""
    call_command("migrate", run_syncdb=True, verbosity=0)


def create(value: int = 1) -> int:
    """Make a register; returns its key."""
    return Register.objects.create(value=value).pk


def read(pk: int) -> int:
    """The value of a register, from the cache if it is there."""
    return Register.objects.values_list("value", flat=True).get(pk=pk)


def look(pk: int) -> tuple[int, str]:
    """The value of a register, and what became of the read."""
    with watch() as seen:
        value = read(pk)
    return value, str(seen.decisions[-1]) if seen.decisions else "hit: not watched"


def truth(pk: int) -> int:
    """The value of a register, from the database."""
    with cachalot_disabled():
        return read(pk)


def write(pk: int, value: int) -> None:
    """A write that commits by itself."""
    Register.objects.filter(pk=pk).update(value=value)


def write_atomic(pk: int, value: int) -> None:
    """A write in a transaction."""
    with transaction.atomic():
        write(pk, value)


def write_both(first: int, second: int, value: int) -> None:
    """Two rows, one after the other, in a transaction; stops between them are those of QUERY."""
    with transaction.atomic():
        write(first, value)
        truth(first)
        write(second, value)


def add(pk: int, much: int) -> None:
    """A write that the database computes."""
    Register.objects.filter(pk=pk).update(value=F("value") + much)


def name(pk: int, called: str) -> None:
    """A write that fails where the name is taken."""
    Register.objects.filter(pk=pk).update(name=called, value=F("value") + 1)


def name_atomic(pk: int, called: str) -> None:
    """The same in a transaction that has written before."""
    with transaction.atomic():
        write(pk, 77)
        name(pk, called)


def name_in_savepoint(pk: int, called: str, value: int) -> str:
    """The same in a savepoint of a transaction that goes on; returns the name of the error."""
    from django.db import Error

    caught = ""
    with transaction.atomic():
        write(pk, value)
        try:
            with transaction.atomic():
                name(pk, called)
        except Error as error:
            caught = type(error).__name__
    return caught


def request(pk: int, reads: int) -> float:
    """What a request does: some reads, a write, a read; returns its seconds."""
    started = time.monotonic()
    for _ in range(reads):
        read(pk)
    add(pk, 1)
    read(pk)
    return time.monotonic() - started


def hold(pk: int) -> None:
    """Lock a row until told to go on; stops are those of QUERY and COMMIT."""
    with transaction.atomic():
        Register.objects.select_for_update().get(pk=pk)


def waiting() -> int:
    """How many sessions of PostgreSQL wait for a lock."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT COUNT(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        return cursor.fetchone()[0]


def busy() -> int:
    """How many other sessions of PostgreSQL do something for a client."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT COUNT(*) FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND state <> 'idle'"
        )
        return cursor.fetchone()[0]


def fill_up(entries: int, size: int) -> None:
    """Read so many different results of so many bytes, to fill the cache."""
    from django.db.models import Value
    from django.db.models.functions import Repeat

    for number in range(entries):
        text = Repeat(Value(f"{number:010d}"), size // 10)
        list(Register.objects.annotate(text=text).values_list("text")[:1])


def counts() -> dict[str, Any]:
    """What was counted in this process."""
    return stats()


def forget() -> None:
    """Invalidate everything by hand."""
    invalidate()


def undelivered() -> int:
    """How many tags wait in this process for the cache to come back."""
    from cachalot.conf import current
    from cachalot.engine.caches import query_cache

    cache = query_cache(current().cache)
    return 0 if cache is None else cache.guard.undelivered()


def timed(action: str, *arguments: Any) -> tuple[float, Any]:
    """Seconds that an action takes, and its result."""
    call: Callable[..., Any] = globals()[action]
    started = time.monotonic()
    result = call(*arguments)
    return time.monotonic() - started, result


def close() -> None:
    """Close the connection to the database."""
    connection.close()


def now() -> float:
    """The time of day in this process, in seconds since 1970."""
    return time.time()


def rows(wanted: dict[str, int]) -> dict[str, list[int]]:
    """Make rows of several tables; returns their keys by the name of the model."""
    return {
        model: [apps.get_model("registers", model).objects.create().pk for _ in range(many)]
        for model, many in wanted.items()
    }


def row(model: str, pk: int) -> Any:
    """What a row of the workload holds, from the database."""
    with cachalot_disabled():
        found = apps.get_model("registers", model).objects.get(pk=pk)
    return elements(found.elements) if hasattr(found, "elements") else found.value


def switch(on: bool) -> None:
    """Switch the cache off or on for every process."""
    (switch_on if on else switch_off)()


def slowly(pk: int, seconds: float = 3.0) -> int:
    """Read a register as :func:`read` does, from a database that takes its time."""

    def late(execute: Any, *arguments: Any) -> Any:
        time.sleep(seconds)
        return execute(*arguments)

    with connection.execute_wrapper(late):
        return read(pk)
