"""A cache backend that fails when a test wants it to, and counts how often it is asked."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from django.core.cache.backends.base import BaseCache
from django.core.cache.backends.locmem import LocMemCache
from django.test import override_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATH = "tests.acceptance.faulty"
READS = frozenset({"get", "get_many"})


class Faults:
    """What goes wrong, for all caches of this module.

    :ivar fault: name of one of :data:`FAULTS`; none when it is empty.
    :ivar wrong: whether the call with a number and a name goes wrong.
    :ivar calls: the names of all calls.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.mend()
        self.calls: list[str] = []

    def mend(self) -> None:
        """Let everything work again."""
        self.fault = ""
        self.wrong: Callable[[int, str], bool] = lambda number, name: True

    def next(self, name: str) -> str:
        """Count a call, and say what goes wrong with it."""
        with self.lock:
            number = len(self.calls)
            self.calls.append(name)
        return self.fault if self.fault and self.wrong(number, name) else ""


faults = Faults()


def _raise(name: str, call: Callable[[], Any]) -> Any:
    raise ConnectionError(f"{name}: nobody is there")


def _raise_late(name: str, call: Callable[[], Any]) -> Any:
    call()
    raise TimeoutError(f"{name}: no answer, but it was done")


def _none(name: str, call: Callable[[], Any]) -> Any:
    return None


def _empty(name: str, call: Callable[[], Any]) -> Any:
    return {"get_many": {}, "set_many": [], "add": False}.get(name)


def _garbage(name: str, call: Callable[[], Any]) -> Any:
    if name == "get_many":
        return {key: (b"\x80\x04garbage", 7, [None], float("nan"))[len(key) % 4] for key in call()}
    if name == "get":
        return b"\x80\x04garbage"
    call()
    return []


#: Ways to fail: with an error before or after the work was done, or without a sound.
FAULTS = {"raise": _raise, "raise late": _raise_late, "none": _none, "empty": _empty, "garbage": _garbage}


class FaultyCache(BaseCache):
    """A cache in memory behind a line that may be down; of no class that the engine knows."""

    def __init__(self, location: str, params: dict[str, Any]) -> None:
        super().__init__(params)
        self._inside = LocMemCache(location, params)

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        def call() -> Any:
            return getattr(self._inside, name)(*args, **kwargs)

        fault = faults.next(name)
        return FAULTS[fault](name, call) if fault else call()

    def get_many(self, *args: Any, **kwargs: Any) -> Any:
        """As in the base class."""
        return self._call("get_many", *args, **kwargs)

    def set_many(self, *args: Any, **kwargs: Any) -> Any:
        """As in the base class."""
        return self._call("set_many", *args, **kwargs)

    def add(self, *args: Any, **kwargs: Any) -> Any:
        """As in the base class."""
        return self._call("add", *args, **kwargs)

    def get(self, *args: Any, **kwargs: Any) -> Any:
        """As in the base class."""
        return self._call("get", *args, **kwargs)

    def delete_many(self, *args: Any, **kwargs: Any) -> Any:
        """As in the base class."""
        return self._inside.delete_many(*args, **kwargs)

    def clear(self) -> None:
        """As in the base class."""
        self._inside.clear()


class FaultyLocMemCache(LocMemCache):
    """The same by inheritance: the engine takes it for a cache in memory, which drops nothing in silence."""

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        def call() -> Any:
            return getattr(LocMemCache, name)(self, *args, **kwargs)

        fault = faults.next(name)
        return FAULTS[fault](name, call) if fault else call()

    def get_many(self, *args: Any, **kwargs: Any) -> Any:
        """As in the base class."""
        return self._call("get_many", *args, **kwargs)

    def set_many(self, *args: Any, **kwargs: Any) -> Any:
        """As in the base class."""
        return self._call("set_many", *args, **kwargs)


@contextmanager
def used(backend: str, **options: Any) -> Iterator[None]:
    """Make one cache the one in use, beside those of the settings."""
    from django.conf import settings

    made = {**settings.CACHES, "outage": {"BACKEND": backend, "LOCATION": "outage", **options}}
    faults.mend()
    faults.calls.clear()
    with override_settings(CACHES=made, CACHALOT_CACHE="outage"):
        try:
            yield
        finally:
            faults.mend()
