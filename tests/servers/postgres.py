"""A private PostgreSQL. It refuses to run as root, so root runs it as ``postgres``."""

from __future__ import annotations

import os
import shutil
import signal
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from tests.servers.base import HOST, Server, ServerError, find_binary

if TYPE_CHECKING:
    import socket

#: The superuser of every private server; it needs no password.
USER = "cachalot"
#: Names the directory with the programs of another version than the newest of Debian.
PROGRAMS = "CACHALOT_TEST_POSTGRES_PROGRAMS"

_PROTOCOL_3 = 196608
# Nothing here survives the machine, so nothing has to reach the disk in time.
_SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_prepared_transactions": "10",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "autovacuum_naptime": "10min",
}


def _program(name: str) -> Path | None:
    if chosen := os.environ.get(PROGRAMS):
        found = shutil.which(name, path=chosen)
        return None if found is None else Path(found)
    versions = Path("/usr/lib/postgresql").glob("*/bin")
    newest_first = sorted(versions, key=lambda path: float(path.parent.name), reverse=True)
    return find_binary(name, directories=newest_first)


class Postgres(Server):
    """PostgreSQL with TCP logins for :data:`USER`, without a password."""

    name = "postgresql"
    accounts = ("postgres",)
    # SIGTERM would wait until every client has gone.
    stop_signal = signal.SIGINT
    user = USER

    @classmethod
    def binary(cls) -> Path | None:
        """Debian keeps one directory per version; the newest is taken, unless :data:`PROGRAMS` names one."""
        return _program("postgres")

    def prepare(self) -> None:
        """Run initdb."""
        initdb = _program("initdb")
        if initdb is None:
            raise ServerError("initdb is not installed here")
        self.run(
            initdb, "--pgdata", self.data, "--username", USER, "--auth", "trust",
            "--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync",
        )  # fmt: skip

    def command(self) -> list[str]:
        """Everything is set on the command line; the configuration file stays as initdb made it."""
        settings = [argument for key, value in _SETTINGS.items() for argument in ("-c", f"{key}={value}")]
        return [str(self.binary()), "-D", str(self.data), "-p", str(self.port), *settings, *self.options]

    def probe(self, connection: socket.socket) -> bool:
        """While it recovers it answers a login with an error ('E'), later with 'R'."""
        login = f"user\0{USER}\0database\0postgres\0\0".encode()
        connection.sendall(struct.pack("!II", len(login) + 8, _PROTOCOL_3) + login)
        return connection.recv(1) == b"R"
