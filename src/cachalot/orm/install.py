"""Takes and gives back the seams into Django.

Everything that is changed, and nothing else:

* ``django.db.connections.create_connection``, so that each new connection gets its session
* of each connection object: ``_commit``, ``_rollback``, ``_set_autocommit``, ``set_autocommit``,
  ``run_and_clear_commit_hooks``, ``init_connection_state``, ``make_cursor``, ``make_debug_cursor``,
  ``ops.compiler``,
  and one entry at the head of ``execute_wrappers``
* ``QuerySet._fetch_all``, from the first use of ``cachalot_disabled(all_queries=True)`` on
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from django.db import connections

from cachalot.engine.identity import remember_names
from cachalot.orm import querysets
from cachalot.orm.connection import attach, detach

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

_lock = threading.Lock()


def install() -> None:
    """Attach a session to every connection, those of now and those to come. Doing it twice does no harm."""
    remember_names()
    with _lock:
        if "create_connection" not in connections.__dict__:
            connections.__dict__["create_connection"] = _create_connection
    for connection in connections.all(initialized_only=True):
        attach(connection)


def uninstall() -> None:
    """Give every original back, on the connections of this thread and on those to come."""
    with _lock:
        connections.__dict__.pop("create_connection", None)
    querysets.uninstall()
    for connection in connections.all(initialized_only=True):
        detach(connection)


def _create_connection(alias: str) -> BaseDatabaseWrapper:
    connection: BaseDatabaseWrapper = type(connections).create_connection(connections, alias)
    attach(connection)
    return connection
