"""Worker processes that use Django with cachalot, and that can be stopped and killed at yield points.

    worker = Worker(settings_for(postgres, redis))
    worker.start("write", pk, 2, stop="after MARK")
    worker.reached("after MARK")
    worker.kill()

They are forked from a server of processes that has imported everything before, so one costs some hundredths
of a second. Each has settings, connections and a cache of its own, as a process of gunicorn has.
"""

from __future__ import annotations

import multiprocessing
import time
from typing import TYPE_CHECKING, Any

import django

from tests.faults import worker as inside
from tests.servers.base import HOST

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

#: Seconds after which a worker, or a condition, is taken for hanging.
PATIENCE = 40.0
#: Seconds that a socket waits for a cache server, to connect and to answer.
SOCKET_TIMEOUT = 0.5
#: Seconds after which marks of dead writers end.
LEASE = 1.5

context = multiprocessing.get_context("forkserver")
# What a worker imports anyway, as far as it can be imported before Django is configured.
context.set_forkserver_preload(
    [
        inside.__name__,
        "cachalot.checks",
        "cachalot.orm.install",
        "cachalot.testing",
        "django.core.cache.backends.redis",
        "django.core.mail",
        "django.core.management",
        "django.db.backends.postgresql.base",
        "django.db.backends.sqlite3.base",
        "hiredis",
        "psycopg",
        "redis",
    ]
)


class WorkerError(Exception):
    """What a worker was told has raised an exception.

    :ivar kinds: the names of the classes of the exception, the narrowest first.
    """

    def __init__(self, kinds: list[str], text: str) -> None:
        super().__init__(f"{kinds[0]}: {text}")
        self.kinds = kinds


def postgres_settings(port: int, **options: Any) -> dict[str, Any]:
    """A PostgreSQL on loopback, as one entry of ``DATABASES``."""
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": "postgres",
        "USER": "cachalot",
        "HOST": HOST,
        "PORT": port,
        "CONN_MAX_AGE": None,
        "OPTIONS": options,
    }


def sqlite_settings(directory: Path) -> dict[str, Any]:
    """A file, as one entry of ``DATABASES``."""
    options: dict[str, Any] = {"timeout": 20}
    if django.VERSION >= (5, 1):
        options["init_command"] = "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF"
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(directory / "faults.sqlite3"),
        "OPTIONS": options,
    }


def redis_settings(port: int, timeout: float = SOCKET_TIMEOUT) -> dict[str, Any]:
    """A Redis on loopback, as one entry of ``CACHES``."""
    return {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": f"redis://{HOST}:{port}/0",
        "OPTIONS": {"socket_timeout": timeout, "socket_connect_timeout": timeout},
    }


def settings_for(database: dict[str, Any], cache: dict[str, Any], **more: Any) -> dict[str, Any]:
    """All settings of a worker."""
    return {
        "DATABASES": {"default": database},
        "CACHES": {"default": cache},
        "INSTALLED_APPS": ["tests.faults.registers", "cachalot"],
        "DEFAULT_AUTO_FIELD": "django.db.models.BigAutoField",
        "SECRET_KEY": "for tests only",
        "USE_TZ": True,
        "LOGGING_CONFIG": None,
        "CACHALOT_LEASE": LEASE,
        **more,
    }


class Worker:
    """One process.

    :param values: its settings.
    """

    def __init__(self, values: dict[str, Any]) -> None:
        self._channel, theirs = context.Pipe()
        self._process = context.Process(target=inside.serve, args=(theirs, dict(values)), daemon=True)
        self._process.start()
        theirs.close()
        kind, self.pid = self._receive()
        assert kind == "ready"

    def call(self, action: str, *arguments: Any) -> Any:
        """Run a function of ``tests.faults.actions`` and return its result.

        :raises WorkerError: it has raised.
        """
        self.start(action, *arguments)
        return self.finish()

    def start(self, action: str, *arguments: Any, stop: str = "") -> None:
        """Have it run a function, up to a yield point if one is given."""
        self._channel.send((action, arguments, stop))

    def reached(self, point: str) -> None:
        """Wait until it has stopped at a yield point."""
        message = self._receive()
        assert message == ("at", point), f"{message} instead of a stop {point}"

    def go(self) -> None:
        """Let it go on from where it has stopped."""
        self._channel.send("go")

    def finish(self) -> Any:
        """Wait for the result of what was started.

        :raises WorkerError: it has raised.
        """
        kind, *rest = self._receive()
        if kind == "raised":
            raise WorkerError(*rest)
        assert kind == "done", f"it has stopped {rest}"
        return rest[0]

    def kill(self) -> None:
        """End it by SIGKILL, wherever it is."""
        self._process.kill()
        self._process.join(PATIENCE)
        self._channel.close()

    def close(self) -> None:
        """End it, if it still runs."""
        if self._process.is_alive():
            self.kill()

    def _receive(self) -> Any:
        assert self._channel.poll(PATIENCE), f"worker {self._process.pid} does not answer"
        return self._channel.recv()


def eventually(condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """Wait until a condition holds, and return what it has returned.

    :param what: what is waited for, for the message.
    """
    deadline = time.monotonic() + patience
    while True:
        if result := condition():
            return result
        assert time.monotonic() < deadline, f"it did not happen within {patience} s: {what}"
        time.sleep(0.02)
