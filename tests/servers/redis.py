"""A private Redis, without persistence unless asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.servers.base import HOST, Server, find_binary

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence
    from pathlib import Path

#: Each pytest worker of each pair gets a database of its own.
DATABASES = 512


class Redis(Server):
    """Redis or Valkey.

    :param rdb: write a snapshot at an orderly end, and load it at the next start.
    :param aof: write every command to a log that survives even SIGKILL.
    """

    name = "redis"
    accounts = ("redis", "valkey", "nobody")

    def __init__(
        self, *, rdb: bool = False, aof: bool = False, port: int | None = None, options: Sequence[str] = ()
    ) -> None:
        super().__init__(port=port, options=options)
        self.rdb = rdb
        self.aof = aof

    @classmethod
    def binary(cls) -> Path | None:
        """Either of the two speaks the same protocol."""
        return find_binary("redis-server", "valkey-server")

    def prepare(self) -> None:
        """An empty directory is all it needs."""
        self.data.mkdir()
        self._give_to_account(self.data)

    def command(self) -> list[str]:
        """A save rule that is never reached: it makes the orderly end write the snapshot."""
        return [
            str(self.binary()),
            *("--port", str(self.port)),
            *("--bind", HOST),
            *("--dir", str(self.data)),
            *("--databases", str(DATABASES)),
            *("--save", "86400 1000000000" if self.rdb else ""),
            *("--appendonly", "yes" if self.aof else "no"),
            *("--appendfsync", "always" if self.aof else "no"),
            *("--enable-debug-command", "local"),
            *self.options,
        ]

    def probe(self, connection: socket.socket) -> bool:
        """While it loads its data it answers -LOADING."""
        connection.sendall(b"PING\r\n")
        return connection.recv(5) == b"+PONG"
