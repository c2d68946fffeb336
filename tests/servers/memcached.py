"""A private memcached. It keeps nothing, so a restart always empties it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.servers.base import HOST, Server, find_binary

if TYPE_CHECKING:
    import socket
    from pathlib import Path


class Memcached(Server):
    """memcached with 64 MB and the default limit of 1 MB per value."""

    name = "memcached"
    # It refuses to run as root.
    accounts = ("memcache", "memcached", "nobody")

    @classmethod
    def binary(cls) -> Path | None:
        """Found on PATH nearly everywhere."""
        return find_binary("memcached")

    def command(self) -> list[str]:
        """UDP off: nobody speaks it, and it would need a second free port."""
        return [str(self.binary()), "-l", HOST, "-p", str(self.port), "-U", "0", "-m", "64", *self.options]

    def probe(self, connection: socket.socket) -> bool:
        """The cheapest command there is."""
        connection.sendall(b"version\r\n")
        return connection.recv(7) == b"VERSION"
