"""What every test may ask for: clean caches, a second connection, the uncached truth, counts."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from django.conf import settings
from django.contrib.contenttypes.management import create_contenttypes
from django.contrib.contenttypes.models import ContentType
from django.core.cache import caches
from django.db import connection, connections
from django.db.models import QuerySet
from django.db.models.signals import post_migrate
from django.test import override_settings
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from cachalot.orm.connection import session_of
from cachalot.testing import reset
from tests.servers import SERVERS, Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future

    from django.db.backends.base.operations import BaseDatabaseOperations

T = TypeVar("T")

#: Seconds a call in the second connection may take before the test is told that it hangs.
OTHER_TIMEOUT = 60
TRANSACTION_CONTROL = ("BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT", "RELEASE", "START TRANSACTION")

# One example may take as long as its database does; the fixtures here hold no state of an example.
hypothesis_settings.register_profile(
    "cachalot",
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
hypothesis_settings.load_profile("cachalot")


@pytest.fixture(scope="session")
def django_db_modify_db_settings(django_db_modify_db_settings: None) -> None:
    """Empty the tables after a test in the shortest way, which took more than half of the time of all tests.

    No permissions and content types are made anew: who needs one makes it. PostgreSQL, for which TRUNCATE
    means new files, deletes the few rows there are.
    """
    if connection.vendor == "postgresql":
        kind = type(connection.ops)
        kind.sql_flush = deleting(kind.sql_flush)
    post_migrate.disconnect(dispatch_uid="django.contrib.auth.management.create_permissions")
    post_migrate.disconnect(create_contenttypes)
    post_migrate.connect(forget_contenttypes)


def deleting(sql_flush: Callable[..., list[str]]) -> Callable[..., list[str]]:
    """Return what takes the place of ``sql_flush``, unless numbers are to begin anew."""

    def flush(
        operations: BaseDatabaseOperations, style: Any, tables: Sequence[str], **options: bool
    ) -> list[str]:
        if any(options.values()):
            return sql_flush(operations, style, tables, **options)
        return [f"DELETE FROM {operations.quote_name(table)}" for table in tables]

    return flush


def forget_contenttypes(**_details: object) -> None:
    """Forget the content types that this process remembers: they were deleted with the rest."""
    ContentType.objects.clear_cache()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what cannot run here; in CI a server that is not there is a failure."""
    for marker in item.iter_markers("servers"):
        absent = [name for name in marker.args if not SERVERS[name].available()]
        if absent and os.environ.get("CI"):
            pytest.fail(f"not installed: {', '.join(absent)}")
        if absent:
            pytest.skip(f"not installed: {', '.join(absent)}")
    for marker in item.iter_markers("databases"):
        if connection.vendor not in marker.args:
            pytest.skip(f"only on {', '.join(marker.args)}")
    for marker in item.iter_markers("caches"):
        if settings.TEST_CACHE not in marker.args:
            pytest.skip(f"only on {', '.join(marker.args)}")


@pytest.fixture(autouse=True)
def _clean() -> None:
    """Nothing that an earlier test cached, counted, set or was told about a server reaches the next one."""
    for alias in settings.CACHES:
        caches[alias].clear()
    reset()
    for one in connections.all(initialized_only=True):
        session = session_of(one)
        if session is not None and not one.in_atomic_block and not session.settings.pristine():
            one.close()


@pytest.fixture(autouse=True)
def _granularity(request: pytest.FixtureRequest) -> Iterator[None]:
    """Heed the marker ``granularity``."""
    marker = request.node.get_closest_marker("granularity")
    if marker is None:
        yield
        return
    with override_settings(CACHALOT_GRANULARITY=marker.args[0]):
        yield


class OtherConnection:
    """Runs callables in one second thread, which has database connections of its own."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="other")

    def __call__(self, call: Callable[[], T]) -> T:
        """Run it there and wait.

        :raises TimeoutError: when it takes longer than a minute, which means that it waits for us.
        """
        return self.start(call).result(timeout=OTHER_TIMEOUT)

    def start(self, call: Callable[[], T]) -> Future[T]:
        """Run it there and do not wait; the calls of one object run one after the other."""
        return self._thread.submit(lambda: evaluated(call()))

    def close(self) -> None:
        """Give the thread's connections back and end it."""
        self._thread.submit(connections.close_all)
        self._thread.shutdown()


def evaluated(result: Any) -> Any:
    """A lazy query set would run its query somewhere else, later."""
    return list(result) if isinstance(result, QuerySet) else result


@pytest.fixture
def other_connection() -> Iterator[OtherConnection]:
    """Call it with a callable, which then runs in a second thread with its own connections."""
    other = OtherConnection()
    yield other
    other.close()


@pytest.fixture
def uncached() -> Callable[[Callable[[], T]], T]:
    """Call it with a callable, and it answers what the database says."""

    def run(call: Callable[[], T]) -> T:
        from cachalot.api import cachalot_disabled

        with cachalot_disabled():
            result: T = evaluated(call())
            return result

    return run


class Statements(CaptureQueriesContext):
    """The statements that reached the database, without those that only open and close transactions."""

    @property
    def captured_queries(self) -> list[dict[str, Any]]:
        """Also what ``len()``, iteration and ``[index]`` look at."""
        return [
            query
            for query in super().captured_queries
            if not (query["sql"] or "").lstrip().upper().startswith(TRANSACTION_CONTROL)
        ]

    @property
    def sql(self) -> list[str]:
        """Their texts."""
        return [query["sql"] for query in self.captured_queries]


@pytest.fixture
def queries() -> Callable[..., Statements]:
    """Makes a context manager that counts; takes the alias of the database."""
    return lambda alias="default": Statements(connections[alias])


@pytest.fixture
def start_server(request: pytest.FixtureRequest) -> Callable[..., Server]:
    """Starts servers which this test may break; the test needs the mark ``servers`` as well."""

    def start(kind: type[Server], **options: Any) -> Server:
        server = kind(**options)
        request.addfinalizer(server.stop)
        return server.start()

    return start
