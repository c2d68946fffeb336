"""A private MariaDB, with one user who may do everything over TCP without a password."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.servers.base import HOST, Server, ServerError, find_binary

if TYPE_CHECKING:
    import socket
    from pathlib import Path

#: The user of every private server.
USER = "cachalot"

_FIRST_STATEMENTS = f"""\
CREATE USER IF NOT EXISTS '{USER}'@'%' IDENTIFIED BY '';
GRANT ALL PRIVILEGES ON *.* TO '{USER}'@'%' WITH GRANT OPTION;
"""
_GREETING_VERSION = 10


class MariaDB(Server):
    """MariaDB with InnoDB set for speed instead of durability."""

    name = "mariadb"
    accounts = ("mysql",)
    user = USER

    @classmethod
    def binary(cls) -> Path | None:
        """MySQL's own server is not asked for: its options differ."""
        return find_binary("mariadbd")

    def prepare(self) -> None:
        """Run mariadb-install-db."""
        install = find_binary("mariadb-install-db")
        if install is None:
            raise ServerError("mariadb-install-db is not installed here")
        self.run(install, "--no-defaults", f"--datadir={self.data}", "--skip-test-db", "--skip-name-resolve")

    def command(self) -> list[str]:
        """The statements of the init file run before the first client is let in, at each start."""
        first = self.directory / "first.sql"
        first.write_text(_FIRST_STATEMENTS)
        self._give_to_account(first)
        return [
            str(self.binary()),
            "--no-defaults",
            f"--datadir={self.data}",
            f"--bind-address={HOST}",
            f"--port={self.port}",
            # Relative to the data directory: a socket's path has a length limit.
            "--socket=mariadb.sock",
            "--pid-file=mariadb.pid",
            f"--init-file={first}",
            "--skip-name-resolve",
            "--skip-log-bin",
            "--character-set-server=utf8mb4",
            "--max-connections=200",
            "--innodb-buffer-pool-size=128M",
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-doublewrite=0",
            *self.options,
        ]

    def probe(self, connection: socket.socket) -> bool:
        """A ready server greets with its protocol version; a full or starting one sends an error packet."""
        greeting = connection.recv(5)
        return len(greeting) == 5 and greeting[4] == _GREETING_VERSION
