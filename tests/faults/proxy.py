"""A TCP proxy on loopback that delays, cuts, truncates and swallows when it is told to.

    with Proxy(server.port) as proxy:
        proxy.swallow(DOWN)  # requests arrive, answers do not
        ...
        proxy.heal()

What it is told holds for all connections, open ones too, until :meth:`Proxy.heal`. A connection that has lost
bytes is cut when the proxy heals: its ends would misunderstand each other.
"""

from __future__ import annotations

import contextlib
import enum
import select
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING

from tests.servers.base import HOST

if TYPE_CHECKING:
    from typing_extensions import Self

CHUNK = 65536
#: Closing with this set sends RST, and nothing that waits is sent any more.
_RESET = struct.pack("ii", 1, 0)
_FULL_QUEUE_TRIES = 16


class Direction(enum.Enum):
    """Which way bytes go."""

    UP = "to the server"
    DOWN = "to the client"


UP, DOWN = Direction.UP, Direction.DOWN


class _Link:
    """One connection through the proxy, with a thread for each direction."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self.proxy = proxy
        self.ends = {UP: (client, server), DOWN: (server, client)}
        self.left: dict[Direction, int] = {}
        self.lossy = False
        self.last_request = b""
        self.answer_is_lost = False
        self._lock = threading.Lock()
        self._ended = False
        proxy.links.add(self)
        for direction in Direction:
            threading.Thread(target=self._pump, args=(direction,), daemon=True).start()

    def end(self, *, reset: bool = False) -> None:
        """Close both ends.

        :param reset: whether to do so without good manners, as a machine that was switched off does.
        """
        with self._lock:
            if self._ended:
                return
            self._ended = True
        self.proxy.links.discard(self)
        for end in self.ends[UP]:
            with contextlib.suppress(OSError):
                if reset:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                # Wakes the thread that reads from it; close() alone does not.
                end.shutdown(socket.SHUT_RD)
            end.close()

    def _pump(self, direction: Direction) -> None:
        source, target = self.ends[direction]
        try:
            while data := source.recv(CHUNK):
                self._pass(direction, data, target)
        except OSError:
            pass
        finally:
            self.end()

    def _pass(self, direction: Direction, data: bytes, target: socket.socket) -> None:
        proxy = self.proxy
        if pause := proxy.delays.get(direction, 0.0):
            time.sleep(pause)
        if direction is UP:
            self.last_request = data
            if proxy.caught(self, data):
                return
        if direction is DOWN and self.answer_is_lost:
            self.end(reset=True)
            proxy.sprung.set()
            return
        if direction in proxy.swallowed:
            self.lossy = True
            return
        limit = proxy.limits.get(direction)
        if limit is None:
            target.sendall(data)
            return
        left = self.left.setdefault(direction, limit)
        target.sendall(data[:left])
        self.left[direction] = left - len(data)
        if len(data) >= left:
            self.end()


class Proxy:
    """Listens on a free port of its own and passes everything on, until it is told otherwise.

    :param target: the port of the server, on loopback.

    :ivar delays: seconds that a piece of data waits, by direction.
    :ivar limits: bytes that a connection may still pass, by direction.
    :ivar swallowed: directions in which nothing arrives.
    :ivar sprung: set when what :meth:`lose_answer` or :meth:`lose_request` waits for has happened.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.links: set[_Link] = set()
        self.delays: dict[Direction, float] = {}
        self.limits: dict[Direction, int] = {}
        self.swallowed: frozenset[Direction] = frozenset()
        self.sprung = threading.Event()
        self._trap: tuple[bytes, Direction] | None = None
        self._lock = threading.Lock()
        self._crowd: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self.port = 0
        self._listen()

    # What goes wrong.

    def delay(self, seconds: float, *directions: Direction) -> None:
        """Let every piece of data wait; both directions if none is given."""
        self.delays = dict.fromkeys(directions or Direction, seconds)

    def swallow(self, *directions: Direction) -> None:
        """Let nothing arrive; a black hole if no direction is given."""
        self.swallowed = frozenset(directions or Direction)

    def truncate(self, direction: Direction, after: int) -> None:
        """Let each connection pass only so many more bytes, then end it."""
        for link in list(self.links):
            link.left.clear()
        self.limits = {direction: after}

    def lose_answer(self, request: bytes) -> None:
        """The next request with these bytes arrives; instead of an answer the connection is cut."""
        self._set_trap(request, DOWN)

    def lose_request(self, request: bytes) -> None:
        """The connection is cut instead of passing on the next request with these bytes."""
        self._set_trap(request, UP)

    def cut(self) -> None:
        """Reset all connections; new ones pass."""
        for link in list(self.links):
            link.end(reset=True)

    def cut_those_with(self, request: bytes) -> None:
        """Reset the connections whose latest request has these bytes."""
        for link in list(self.links):
            if request in link.last_request:
                link.end(reset=True)

    def refuse(self) -> None:
        """Reset all connections and listen no more."""
        self._close_listener()
        self.cut()

    def vanish(self) -> None:
        """Reset all connections, and let attempts to connect end in time-outs.

        The queue of the listener is filled: the kernel then drops what asks for more.
        """
        self._close_listener()
        self.cut()
        self._bind(backlog=0)
        for _ in range(_FULL_QUEUE_TRIES):
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex((HOST, self.port))
            self._crowd.append(one)
            if not select.select([], [one], [], 0.1)[1]:
                return
        raise AssertionError("the queue of a listener cannot be filled here")

    def heal(self) -> None:
        """Pass everything again; connections that have lost bytes are cut."""
        self.delays, self.limits, self.swallowed = {}, {}, frozenset()
        with self._lock:
            self._trap = None
        for link in list(self.links):
            if link.lossy or link.left:
                link.end(reset=True)
        if self._listener is None or self._crowd:
            self._close_listener()
            self._listen()

    def close(self) -> None:
        """End everything."""
        self._close_listener()
        self.cut()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    # How it is done.

    def _set_trap(self, request: bytes, lost: Direction) -> None:
        self.sprung.clear()
        with self._lock:
            self._trap = (request, lost)

    def caught(self, link: _Link, data: bytes) -> bool:
        """Spring the trap if these bytes are what it waits for; returns whether they go no further."""
        with self._lock:
            if self._trap is None or self._trap[0] not in data:
                return False
            lost = self._trap[1]
            self._trap = None
        if lost is UP:
            link.end(reset=True)
            self.sprung.set()
            return True
        link.answer_is_lost = True
        return False

    def _bind(self, backlog: int) -> socket.socket:
        self._listener = listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, self.port))
        listener.listen(backlog)
        self.port = listener.getsockname()[1]
        return listener

    def _listen(self) -> None:
        threading.Thread(target=self._accept, args=(self._bind(128),), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _address = listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection((HOST, self.target), timeout=5)
            except OSError:
                client.close()
                continue
            for end in (client, server):
                end.settimeout(None)
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _Link(self, client, server)

    def _close_listener(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                # Wakes the thread in accept().
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        while self._crowd:
            self._crowd.pop().close()
