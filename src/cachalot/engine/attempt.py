"""One commit that is tried once, and what becomes of its invalidation when the cache does not answer.

``CACHALOT_ON_CACHE_FAILURE`` chooses. The failure is known before the COMMIT, so there is still time to put
the invalidation into the transaction itself (``outbox``) or to refuse the commit (``raise``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db import Error, OperationalError, connections
from django.db.transaction import atomic
from django.utils.connection import ConnectionDoesNotExist

from cachalot.core.steps import Committed
from cachalot.engine import isolation, outbox
from cachalot.engine.isolation import Level

if TYPE_CHECKING:
    from collections.abc import Callable

    from cachalot.conf import Config
    from cachalot.core.tags import Effects
    from cachalot.engine.session import Session


class CacheUnavailableError(OperationalError):
    """Nothing was written, because the cache does not answer (``CACHALOT_ON_CACHE_FAILURE = 'raise'``).

    .. versionadded:: 3.0
    """


class Attempt:
    """A commit that is tried once, whose error is kept until the cache has been told.

    :param session: the connection.
    :param execute: commits, or runs a statement that commits by itself.
    :param effects: what is committed.
    :param cache: alias of the cache.
    :param wrappable: whether the statement may as well be run inside a transaction.
    :ivar wrapped: whether the statement was run in a transaction, whose commit was an attempt of its own.
    """

    def __init__(
        self,
        session: Session,
        execute: Callable[[], Any],
        effects: Effects,
        cache: str,
        config: Config,
        *,
        wrappable: bool,
    ) -> None:
        self._session = session
        self._execute = execute
        self._effects = effects
        self._cache = cache
        self._config = config
        self._wrappable = wrappable
        self._stored = False
        self.wrapped = False
        self.result: Any = None
        self.error: BaseException | None = None

    def unmarked(self) -> bool:
        """Get ready to commit although the cache could not be told.

        :returns: whether the process is to remember the invalidation.
        :raises CacheUnavailableError: the settings say that nothing may be committed then.
        """
        policy = self._config.on_cache_failure
        if policy == "raise":
            raise CacheUnavailableError(
                "The cache does not answer, so that nothing may be written (CACHALOT_ON_CACHE_FAILURE)."
            )
        if policy == "outbox":
            self._use_outbox()
        return policy != "ignore" and not self.wrapped

    def _use_outbox(self) -> None:
        session, config = self._session, self._config
        inside = session.transaction() is not None
        if not inside and not (self._wrappable and _can_begin(session)):
            return
        try:
            there = outbox.is_there(session, config)
        except Error:
            return
        if there and inside:
            self._stored = outbox.put(session, self._cache, self._effects, config)
        self.wrapped = there and not inside

    def __call__(self) -> Committed:
        """Commit.

        :returns: what is known about it; never raises.
        """
        try:
            self.result = self._run_wrapped() if self.wrapped else self._execute()
        except BaseException as error:  # noqa: BLE001 - raised again as soon as the cache knows
            self.error = error
            return Committed.NO if self._session.commit_failed_for_sure() else Committed.UNKNOWN
        if self._stored:
            outbox.tell(self._effects)
        return Committed.UNKNOWN if self._session.answers_later() else Committed.YES

    def _run_wrapped(self) -> Any:
        """Run a statement in a transaction of its own, into which its row is put when it commits."""
        with atomic(using=self._session.connection.alias):
            transaction = self._session.transaction()
            if transaction is not None:
                transaction.note(self._effects)
            return self._execute()


def _can_begin(session: Session) -> bool:
    """Return whether a statement can be put into a transaction that behaves as autocommit does."""
    connection = session.connection
    try:
        if connections[connection.alias] is not connection:
            return False  # a copy, which `atomic` would not find
    except ConnectionDoesNotExist:
        return False
    if connection.vendor == "postgresql" and isolation.configured(connection) not in {None, Level.STATEMENT}:
        return False  # psycopg uses the configured level in transactions only
    try:
        connection.ensure_connection()
    except Exception:  # noqa: BLE001 - the statement raises it again
        return False
    return True
