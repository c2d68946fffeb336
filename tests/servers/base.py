"""What every private server has in common: start, wait until it answers, pause, kill, restart, stop.

A server must not outlive its tests, whatever ends them. Three things see to that: the context manager,
``atexit`` for a caller without one, and the kernel (``PR_SET_PDEATHSIG``) for a test process that was killed.
The kernel's signal comes when the *thread* that started the server ends: start servers from the main thread.
Only processes started here are ever signalled, by their pid.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from typing_extensions import Self

HOST = "127.0.0.1"
#: Where Debian puts binaries that are not on everybody's PATH.
SYSTEM_DIRECTORIES = ("/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin", "/bin")
_PR_SET_PDEATHSIG = 1


class ServerError(RuntimeError):
    """A server is not installed, did not start or did not stop."""


def find_binary(*names: str, directories: Sequence[str | Path] = ()) -> Path | None:
    """The first of the names found in the directories, on PATH or where the system keeps its servers."""
    path = os.pathsep.join([*map(str, directories), os.environ.get("PATH", ""), *SYSTEM_DIRECTORIES])
    for name in names:
        if found := shutil.which(name, path=path):
            return Path(found)
    return None


def free_port() -> int:
    """A loopback port nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def die_with_parent(signum: int) -> Callable[[], None] | None:
    """A ``preexec_fn`` that has the kernel send a signal to the child when its parent is gone (Linux only).

    It has to run after the child has changed its user: changing the user clears it.
    """
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def ask() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signum)
        if os.getppid() != parent:
            os.kill(os.getpid(), signum)

    return ask


class Server:
    """One private server process. Subclasses say how to prepare, start and probe it.

    :param port: the port to listen on; a free one by default.
    :param options: further command-line arguments of the server.
    """

    #: What people call it, in messages.
    name: ClassVar[str]
    #: Accounts to run as when we are root, the first that exists.
    accounts: ClassVar[tuple[str, ...]] = ()
    #: The signal for a quick and orderly end.
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    #: Seconds a server gets to answer, and to end.
    patience: ClassVar[float] = 60.0

    def __init__(self, *, port: int | None = None, options: Sequence[str] = ()) -> None:
        self.port = port or free_port()
        self.options = list(options)
        self.process: subprocess.Popen[bytes] | None = None
        self._directory: Path | None = None
        self._paused: list[int] = []

    # What a subclass says.

    @classmethod
    def binary(cls) -> Path | None:
        """Where the server's program is, or None."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Make the data directory. Runs once, and again when data was thrown away."""

    def command(self) -> list[str]:
        """The command line that starts the server in the foreground."""
        raise NotImplementedError

    def probe(self, connection: socket.socket) -> bool:
        """Whether the server at the other end of a fresh connection is ready for clients."""
        raise NotImplementedError

    # What everybody may use.

    @classmethod
    def available(cls) -> bool:
        """Whether the server is installed here."""
        return cls.binary() is not None

    @property
    def address(self) -> str:
        """``host:port``."""
        return f"{HOST}:{self.port}"

    @property
    def directory(self) -> Path:
        """The temporary directory with the server's data and log."""
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix=f"cachalot-{self.name}-"))
            self._give_to_account(self._directory)
        return self._directory

    @property
    def data(self) -> Path:
        """Where the data is; not there before :meth:`prepare`."""
        return self.directory / "data"

    @property
    def log(self) -> Path:
        """What the server printed."""
        return self.directory / "log"

    @property
    def running(self) -> bool:
        """Whether the process lives (a paused one does)."""
        return self.process is not None and self.process.poll() is None

    def start(self) -> Self:
        """Start the server and wait until it answers.

        :raises ServerError: if it is not installed, ends at once or does not answer in time.
        """
        if self.running:
            return self
        if not self.available():
            msg = f"{self.name} is not installed here"
            raise ServerError(msg)
        atexit.register(self.stop)
        if not self.data.exists():
            self.prepare()
        deadline = time.monotonic() + self.patience
        # A killed server's port or shared memory may be held for a moment by what it left behind.
        while not self._try_start(deadline):
            if time.monotonic() > deadline:
                msg = f"{self.name} did not start:\n{self._log_tail()}"
                raise ServerError(msg)
            time.sleep(0.2)
        return self

    def stop(self) -> None:
        """End the server and remove its directory. Does nothing the second time."""
        atexit.unregister(self.stop)
        self.halt()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def halt(self) -> None:
        """End the server in good order, killing it when it does not listen; its data stays."""
        if self.running:
            self.resume()
            self._signal(self.stop_signal)
            try:
                self._wait()
            except subprocess.TimeoutExpired:
                self.kill()
        self.process = None

    def kill(self) -> None:
        """End the server without warning (SIGKILL); its data stays as it is."""
        self._signal(signal.SIGKILL)
        self._wait()
        # What was stopped below it would otherwise sleep on, holding its sockets.
        self.resume()
        self.process = None

    def restart(self, *, keep_data: bool = True) -> None:
        """Start again on the same port, after ending the server if it runs.

        :param keep_data: False for an empty server.
        """
        self.halt()
        if not keep_data:
            shutil.rmtree(self.data, ignore_errors=True)
        self.start()

    def pause(self) -> None:
        """Freeze the server (SIGSTOP): connections are accepted by the kernel and never answered."""
        if not self.running or self.process is None:
            msg = f"{self.name} does not run"
            raise ServerError(msg)
        # The parent first: a frozen parent makes no further children.
        self._freeze(self.process.pid)
        for child in _children(self.process.pid):
            self._freeze(child)

    def resume(self) -> None:
        """Let a paused server go on (SIGCONT)."""
        while self._paused:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._paused.pop(), signal.SIGCONT)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # How it is done.

    def run(self, *command: str | Path) -> None:
        """Run a preparing command as the server's account.

        :raises ServerError: with its output, if it fails.
        """
        done = subprocess.run(
            list(map(str, command)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            cwd=self.directory,
            **self._account(),
        )
        if done.returncode:
            msg = f"{Path(command[0]).name} failed:\n{done.stdout.decode(errors='replace')}"
            raise ServerError(msg)

    def _try_start(self, deadline: float) -> bool:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                start_new_session=True,  # Ctrl-C ends the tests first, and they end the servers
                preexec_fn=die_with_parent(self.stop_signal),  # noqa: PLW1509  # one prctl call, no locks
                **self._account(),
            )
        while self.running:
            if self.answers():
                return True
            if time.monotonic() > deadline:
                self.kill()
                return False
            time.sleep(0.02)
        return False

    def answers(self) -> bool:
        """Whether a new client would be served now."""
        try:
            with socket.create_connection((HOST, self.port), timeout=1) as connection:
                return self.probe(connection)
        except OSError:
            return False

    def _account(self) -> dict[str, object]:
        entry = self._account_entry()
        if entry is None:
            return {}
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}

    def _account_entry(self) -> pwd.struct_passwd | None:
        if os.geteuid() != 0:
            return None
        for account in self.accounts:
            with contextlib.suppress(KeyError):
                return pwd.getpwnam(account)
        return None

    def _give_to_account(self, path: Path) -> None:
        if entry := self._account_entry():
            os.chown(path, entry.pw_uid, entry.pw_gid)

    def _signal(self, signum: signal.Signals) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signum)

    def _freeze(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            self._paused.append(pid)

    def _wait(self) -> None:
        if self.process is not None:
            self.process.wait(timeout=self.patience / 4)

    def _log_tail(self) -> str:
        return self.log.read_text(errors="replace")[-2000:] if self.log.exists() else "(it printed nothing)"


def _children(parent: int) -> list[int]:
    """The pids of all descendants of a process, parents before children (Linux: read from /proc)."""
    by_parent: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The second field is the command's name, which may hold blanks and brackets itself.
            fields = stat.read_text().rpartition(")")[2].split()
            by_parent.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found: list[int] = []
    waiting = [parent]
    while waiting:
        below = by_parent.get(waiting.pop(0), [])
        found += below
        waiting += below
    return found
