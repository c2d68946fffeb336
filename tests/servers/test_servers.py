"""The private servers of the tests do what fault tests rely on."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import textwrap
import time

import pytest

from tests.servers import SERVERS, Memcached, Redis

EVERY_SERVER = [pytest.param(kind, marks=pytest.mark.servers(name)) for name, kind in SERVERS.items()]


def command(server, line):
    """Send one line to a server, and return what it answers."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(line.encode() + b"\r\n")
        return connection.recv(1000)


@pytest.mark.parametrize("kind", EVERY_SERVER)
def test_a_server_that_was_killed_comes_back_on_the_same_port(kind):
    """Stop, kill and restart leave a server that answers where it answered before."""
    with kind() as server:
        port, directory = server.port, server.directory
        assert server.answers()
        server.kill()
        assert not server.answers()
        server.restart()
        assert server.answers()
        assert server.port == port
        server.restart(keep_data=False)
        assert server.answers()
    assert not server.running
    assert not directory.exists()


@pytest.mark.parametrize("kind", EVERY_SERVER)
def test_a_paused_server_is_silent_until_it_is_resumed(kind):
    """Pausing leaves the port open and every question unanswered."""
    with kind() as server:
        server.pause()
        assert not server.answers()
        assert server.running
        server.resume()
        assert server.answers()


@pytest.mark.servers("memcached")
def test_a_paused_server_can_be_killed_and_stopped():
    """No state of a server keeps a test from ending."""
    with Memcached() as server:
        server.pause()
        server.kill()
        server.restart()
        server.pause()
    assert not server.running


@pytest.mark.servers("redis")
@pytest.mark.parametrize(
    ("persistence", "end", "kept"),
    [({}, "halt", False), ({"rdb": True}, "halt", True), ({"aof": True}, "kill", True)],
    ids=["none", "rdb", "aof"],
)
def test_redis_keeps_what_its_persistence_promises(persistence, end, kept):
    """A restart empties it unless a snapshot was written at an orderly end, or every command to a log."""
    with Redis(**persistence) as server:
        assert command(server, "SET k v") == b"+OK\r\n"
        getattr(server, end)()
        server.restart()
        assert command(server, "EXISTS k") == (b":1\r\n" if kept else b":0\r\n")


@pytest.mark.servers("redis")
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's signal on a parent's death is Linux's")
def test_a_server_does_not_outlive_a_test_process_that_was_killed():
    """A killed test run leaves no process behind."""
    script = textwrap.dedent("""
        import os, signal
        from tests.servers import Redis
        server = Redis().start()
        print(server.port, server.directory, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    done = subprocess.run(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, check=False, text=True, env=os.environ
    )
    port, directory = done.stdout.split()
    server = Redis(port=int(port))
    deadline = time.monotonic() + 10
    while server.answers() and time.monotonic() < deadline:
        time.sleep(0.05)
    shutil.rmtree(directory)
    assert not server.answers()
