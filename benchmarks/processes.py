"""Processes of the forum, one for each contestant, and the servers that they share."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from typing import TYPE_CHECKING, Any

import psycopg
from typing_extensions import Self

from benchmarks.environments import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers import Postgres, Redis

SEED = 8
TEMPLATE, RUN = "forum", "forum_run"


class Process:
    """A worker and the line to it.

    :param database: its database of PostgreSQL.
    :param part: its database of Redis, a number.
    """

    def __init__(self, python: Path, contestant: str, servers: Servers, database: str, part: int = 0) -> None:
        environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "benchmarks.site.settings",
            "BENCH_CONTESTANT": contestant,
            "BENCH_POSTGRES": servers.postgres.address,
            "BENCH_USER": servers.postgres.user,
            "BENCH_REDIS": f"redis://{servers.redis.address}/{part}",
            "BENCH_DATABASE": database,
        }
        environment.pop("PYTHONPATH", None)
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.site.worker"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def tell(self, do: str, **what: Any) -> None:
        """Send a command."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **what}) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """Wait for the answer to a command."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a worker has ended with {self._process.wait()}")
        return json.loads(line)

    def ask(self, do: str, **what: Any) -> Any:
        """Send a command and wait for the answer."""
        self.tell(do, **what)
        return self.answer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.communicate()


class Servers:
    """A PostgreSQL and a Redis."""

    def __init__(self, postgres: Postgres, redis: Redis) -> None:
        self.postgres, self.redis = postgres, redis

    def renew(self) -> None:
        """Give the next run a full forum and an empty cache."""
        self._execute(f"DROP DATABASE IF EXISTS {RUN}", f"CREATE DATABASE {RUN} TEMPLATE {TEMPLATE}")
        with socket.create_connection(("127.0.0.1", self.redis.port)) as line:
            line.sendall(b"FLUSHALL\r\n")
            assert line.recv(100).startswith(b"+OK")

    def make_template(self) -> None:
        """Fill the forum that every run begins with."""
        self._execute(f"CREATE DATABASE {TEMPLATE}")

    def _execute(self, *statements: str) -> None:
        account = {"host": "127.0.0.1", "port": self.postgres.port, "user": self.postgres.user}
        with psycopg.connect(**account, dbname="postgres", autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)
