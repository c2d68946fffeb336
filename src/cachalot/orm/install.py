"""Takes and gives back the seams into Django.

Everything that is changed, and nothing else:

* ``django.db.connections.create_connection``, so that each new connection gets its session
* a receiver of ``connection_created``, for connections that were made in another way
* of each connection object: ``_commit``, ``_rollback``, ``_set_autocommit``, ``set_autocommit``,
  ``run_and_clear_commit_hooks``, ``init_connection_state``, ``make_cursor``, ``make_debug_cursor``,
  ``copy``, ``ops.compiler``,
  and one entry at the head of ``execute_wrappers``
* ``QuerySet._fetch_all``, from the first use of ``cachalot_disabled(all_queries=True)`` on
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from django.db import connections
from django.db.backends.signals import connection_created

from cachalot.engine.identity import remember_names
from cachalot.orm import querysets
from cachalot.orm.connection import attach, detach

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.db.backends.base.base import BaseDatabaseWrapper

_UID = "cachalot.orm.install"

_lock = threading.Lock()


def install() -> None:
    """Attach a session to every connection, those of now and those to come. Doing it twice does no harm."""
    remember_names()
    with _lock:
        present = connections.__dict__.get("create_connection")
        if not isinstance(present, _CreateConnection):
            connections.__dict__["create_connection"] = _CreateConnection(present)
        connection_created.connect(_created, dispatch_uid=_UID)
    for connection in connections.all(initialized_only=True):
        attach(connection)


def uninstall() -> None:
    """Give every original back, on the connections of this thread and on those to come."""
    with _lock:
        present = connections.__dict__.get("create_connection")
        if isinstance(present, _CreateConnection):
            present.remove()
        connection_created.disconnect(dispatch_uid=_UID)
    querysets.uninstall()
    for connection in connections.all(initialized_only=True):
        detach(connection)


class _CreateConnection:
    """Makes a connection as before, and attaches a session to it.

    :param original: what another package has put in the same place.
    """

    def __init__(self, original: Callable[[str], BaseDatabaseWrapper] | None) -> None:
        self._original = original

    def __call__(self, alias: str) -> BaseDatabaseWrapper:
        create = self._original or type(connections).create_connection.__get__(connections)
        connection: BaseDatabaseWrapper = create(alias)
        attach(connection)
        return connection

    def remove(self) -> None:
        """Give the place back."""
        if self._original is None:
            connections.__dict__.pop("create_connection", None)
        else:
            connections.__dict__["create_connection"] = self._original


def _created(connection: BaseDatabaseWrapper, **_kwargs: object) -> None:
    """Attach connections that were made without the handler, such as copies, when they connect."""
    attach(connection)
