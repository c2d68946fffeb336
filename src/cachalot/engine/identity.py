"""Which physical database a connection means, and what else of its configuration can change a result.

Two aliases for one database share tags, so that a write through one is seen by the reads of the other. Two
databases never do: parallel test databases, two projects in one Redis and the tenants of one server stay
apart without a key prefix. A declared replica is its primary.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import django
from django.db import connections

from cachalot.core.envelope import FORMAT
from cachalot.core.keys import Namespace, digest

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

    from cachalot.conf import Config

_PROCESS = os.urandom(12)
_configured: dict[str, str] = {}
_LOCAL_HOSTS = frozenset({"", "localhost", "127.0.0.1", "::1"})
_DEFAULT_PORTS = {"postgresql": "5432", "mysql": "3306", "oracle": "1521"}
_NOT_IN_KEYS = frozenset(
    {
        "HOST",
        "NAME",
        "PASSWORD",
        "PORT",
        "CONN_MAX_AGE",
        "CONN_HEALTH_CHECKS",
        "ATOMIC_REQUESTS",
        "TEST",
        "DISABLE_SERVER_SIDE_CURSORS",
    }
)


def primary_of(alias: str, config: Config) -> str:
    """Return the alias that ``alias`` replicates, by the settings or by ``TEST["MIRROR"]``; else itself.

    Django reads MIRROR in tests only. But what tests treat as a mirror is a replica in production.
    """
    declared = config.replicas.get(alias)
    if declared is None:
        declared = (connections.settings.get(alias, {}).get("TEST") or {}).get("MIRROR")
    return declared if declared in connections.settings else alias


def _settings_of(connection: BaseDatabaseWrapper, config: Config) -> Mapping[str, Any]:
    primary = primary_of(connection.alias, config)
    return connection.settings_dict if primary == connection.alias else connections.settings[primary]


def remember_names() -> None:
    """Remember which databases the project has configured, before a test runner gives them other names."""
    for alias in connections:
        _configured.setdefault(alias, str(connections.settings[alias].get("NAME")))


def _path(name: str) -> str:
    """Return the path of a file of SQLite, which may be given as a URI (SQLite manual, URI Filenames)."""
    return unquote(urlsplit(name).path) if name.startswith("file:") else name


def _in_memory(vendor: str, name: str) -> bool:
    return vendor == "sqlite" and (":memory:" in name or "mode=memory" in name)


@lru_cache(maxsize=1024)
def _namespace(vendor: str, host: str, port: str, name: str, own: bytes) -> Namespace:
    return Namespace(digest(*(part.encode() for part in (vendor, host, port, name)), own))


def namespace(connection: BaseDatabaseWrapper, config: Config, incarnation: bytes) -> Namespace:
    """Return the keys of the database behind ``connection``.

    Names of this machine count as one host: to take two servers for one costs misses, the other way round
    stale rows.

    :param connection: a Django database connection; it need not be open.
    :param config: the settings of today.
    :param incarnation: random bytes of this connection, for a database that lives and dies with it.
    """
    settings = _settings_of(connection, config)
    host, port, name = (str(settings.get(key) or "") for key in ("HOST", "PORT", "NAME"))
    vendor = connection.vendor
    if host.startswith("/") or host in _LOCAL_HOSTS:
        host = "localhost"
    if vendor == "sqlite":
        own = b""
        if _in_memory(vendor, name):
            # Without a shared cache each connection has a database of its own (manual, In-Memory Databases).
            own = _PROCESS + str(os.getpid()).encode() if "cache=shared" in name else incarnation
        else:
            name = os.path.realpath(_path(name))
        return _namespace(vendor, "", "", name, own)
    return _namespace(vendor, host, port or _DEFAULT_PORTS.get(vendor, ""), name, b"")


def _stable_text(value: Any) -> str:
    """Return a text for a configured value that is the same in every process."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}={_stable_text(value[key])}" for key in sorted(value, key=str)) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(_stable_text(item) for item in value) + "]"
    if callable(value):
        return (
            f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"
        )
    return repr(value)


def _driver(connection: BaseDatabaseWrapper) -> Any:
    return getattr(connection, "Database", None)


def entry_identity(connection: BaseDatabaseWrapper, space: Namespace) -> bytes:
    """Return what of a connection's configuration can change what a statement returns or how it is read.

    A replica has the results of its primary if both connect as the same user with the same options.

    A test runner gives a database another name and makes its rows anew for each run: then nothing is shared
    with another process, which may be an earlier run.

    :param connection: a Django database connection; it need not be open.
    :param space: the keys of its database, which say where that is.
    """
    kept = {key: value for key, value in connection.settings_dict.items() if key not in _NOT_IN_KEYS}
    driver = getattr(_driver(connection), "__name__", "")
    version = str(getattr(_driver(connection), "__version__", "")).split(".", maxsplit=1)[0]
    name = str(connection.settings_dict.get("NAME"))
    renamed = _configured.get(connection.alias, name) != name
    return digest(
        FORMAT.to_bytes(2, "big"),
        space.root.encode(),
        f"{django.VERSION[0]}.{django.VERSION[1]}".encode(),
        f"{connection.vendor} {driver} {version}".encode(),
        _stable_text(kept).encode(),
        _PROCESS if renamed else b"",
    )
