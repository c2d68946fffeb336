"""The store in Redis: marks are sets of intents, changed by scripts; every answer is signed by its server.

It goes through the connection pools of Django's ``RedisCache`` or of django-redis, so that whatever these are
told about hosts, passwords, TLS, Sentinel or a cluster holds here too, but it writes and reads values of its
own kind: a text as it is, which scripts can read, and bytes after a zero byte. It always asks the primary:
a replica may not have the last mark.
"""

from __future__ import annotations

import inspect
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

from django.core.cache import caches
from django.core.cache.backends.base import BaseCache, default_key_func

from cachalot.core.keys import PROBE
from cachalot.core.steps import SERVER, Lifetime, is_entry
from cachalot.stores import redis_scripts as scripts
from cachalot.stores.base import Concern, StoreAway, StoreRefused, Tier
from cachalot.stores.django_cache import (
    STATE_SECONDS,
    DjangoCacheStore,
    class_names,
    lease_milliseconds,
    seconds,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from cachalot.core.steps import Create, Done, Life, Mark

_BYTES = b"\x00"
_STATE_MS = STATE_SECONDS * 1000
_DJANGO_MAKES = (BaseCache.make_key, BaseCache.make_and_validate_key)
REDIRECTIONS = 8
"""How often a cluster may send us elsewhere."""

_DJANGO = "django.core.cache.backends.redis.RedisCache"
_DJANGO_REDIS = "django_redis.cache.RedisCache"
_KNOWN_CLIENTS = frozenset({"django_redis.client.default", "django_redis.client.sentinel"})


class Command(NamedTuple):
    """One command.

    :param key: the key that decides on which node of a cluster it runs.
    :param words: the command itself.
    :param scripts: for a script, what it is; its words are what follows.
    """

    key: str
    words: tuple[Any, ...]
    scripts: scripts.Scripts | None = None


def plain_redis(cache: BaseCache) -> bool:
    """Return whether the client of redis-py behind a Django cache can be had, one for all keys."""
    names = class_names(cache)
    if _DJANGO in names:
        chooses = getattr(getattr(cache, "_cache", None), "get_client", None)
        return getattr(chooses, "__module__", "") == "django.core.cache.backends.redis"
    return _DJANGO_REDIS in names and type(cache.client).__module__ in _KNOWN_CLIENTS  # type: ignore[attr-defined]


class RedisStore(DjangoCacheStore):
    """Redis through redis-py."""

    tier = Tier.INTENTS

    def __init__(self, alias: str) -> None:
        super().__init__(alias)
        self._flags = True  # until a server does not understand them
        self._clients: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()

    def get_many(self, keys: Sequence[str]) -> dict[str, Any]:
        """Return the values of those ``keys`` that are present, and who said so."""
        names = self._names(keys)
        answers: dict[str, Any] = {}
        for group in self._groups(names):
            server, (values,) = self._ask([Command(group[0], ("MGET", *group))])
            answers.update(zip(group, values, strict=True))
        found = {
            key: _read(answers[name])
            for key, name in zip(keys, names, strict=True)
            if answers[name] is not None
        }
        if server:
            found[SERVER] = server
        return found

    def set_many(self, values: Sequence[tuple[str, Any]], lifetime: Life) -> None:
        """Write all ``values``; see :class:`~cachalot.stores.base.Store`."""
        names = self._names([key for key, _value in values])
        life = _life(lifetime)
        commands = [
            # A millisecond, the shortest life that Redis knows, is long enough to be served.
            Command(name, ("DEL", name) if life == _NO_LIFE else ("SET", name, _written(value), *life))
            for name, (_key, value) in zip(names, values, strict=True)
        ]
        self._ask_all(commands, refusable=is_entry(lifetime))

    def add(self, key: str, value: Any, lifetime: Lifetime) -> bool:
        """Write ``value`` if ``key`` is absent; see :class:`~cachalot.stores.base.Store`."""
        (name,) = self._names([key])
        try:
            _server, (added,) = self._ask(
                [Command(name, ("SET", name, _written(value), "NX", *_life(lifetime)))]
            )
        except StoreAway as error:
            if lifetime is Lifetime.FILL and isinstance(error.__cause__, _errors().OutOfMemoryError):
                return True  # nobody can store the rows, so nobody is worth waiting for
            raise
        return added is not None

    def mark(self, step: Mark) -> dict[str, Any]:
        """Add an intent; see :class:`~cachalot.stores.base.Store`."""
        names = self._names(step.keys)
        arguments = (step.writer, lease_milliseconds(), len(names))
        with self._emptied_when_full(names):
            return self._run_watching(scripts.MARK, names, arguments, step.watched)
        return {}

    def done(self, step: Done) -> dict[str, Any]:
        """Take an intent away; see :class:`~cachalot.stores.base.Store`."""
        names = self._names([step.clock[0], *(key for key, _token in step.tokens)])
        lives = [
            _milliseconds(Lifetime.DEPLOYMENT) if key in step.brief else _STATE_MS
            for key, _token in step.tokens
        ]
        tokens = [
            value for (_key, token), life in zip(step.tokens, lives, strict=True) for value in (token, life)
        ]
        head = (step.writer, "1" if step.committed else "0", _STATE_MS, step.clock[1], len(step.tokens))
        with self._emptied_when_full(names):
            return self._run_watching(scripts.DONE, names, (*head, *tokens), step.watched)
        return {}

    def create(self, step: Create) -> dict[str, Any]:
        """Give tokens to tags that have none; see :class:`~cachalot.stores.base.Store`."""
        keys = [key for key, _token in step.tokens]
        passing = _milliseconds(Lifetime.PASSING)
        tokens = [
            value
            for key, token in step.tokens
            for value in (token, passing if key in step.passing else _STATE_MS)
        ]
        names = self._names([step.clock[0], *keys])
        server, there = self._run(scripts.CREATE, names, (_STATE_MS, step.clock[1], *tokens))
        return _found(keys, there, server)

    def concerns(self) -> list[Concern]:
        """Return what makes the guarantees weaker here; see :class:`~cachalot.stores.base.Store`."""
        (name,) = self._names([PROBE])
        server, answers = self._exchanged([Command(name, ("INFO", "memory"))])
        facts = _facts([one for one in answers if not isinstance(one, Exception)])
        found = [] if server else [Concern.NAMELESS]
        if facts.get(b"maxmemory", b"0") != b"0":
            policy = facts.get(b"maxmemory_policy", b"")
            found += [Concern.MARKS_GO_FIRST] if policy.startswith(b"volatile") else []
            found += [Concern.REFUSES] if policy == b"noeviction" else []
        return found

    @contextmanager
    def _emptied_when_full(self, names: list[str]) -> Iterator[None]:
        """Delete tags that a full server does not let us write: as by an eviction, old results are dead."""
        try:
            yield
        except StoreAway as error:
            if not isinstance(error.__cause__, _errors().OutOfMemoryError):
                raise
            self._ask([Command(names[0], ("DEL", *names))])

    def _run(
        self, script: scripts.Scripts, names: Sequence[str], arguments: Iterable[Any]
    ) -> tuple[str, Any]:
        words = (len(names), *names, *arguments)
        server, (answer,) = self._ask([Command(names[0], words, script)])
        return server, answer

    def _run_watching(
        self, script: scripts.Scripts, names: list[str], arguments: tuple[Any, ...], watched: tuple[str, ...]
    ) -> dict[str, Any]:
        """Run a script that returns what is under the last of its keys."""
        server, there = self._run(script, [*names, *self._names(watched)], arguments)
        return _found(watched, there, server)

    # Keys and nodes.

    def _names(self, keys: Sequence[str]) -> list[str]:
        """Return the keys as they are on the server: with the prefix and the version of the Django cache."""
        cache: Any = caches[self.alias]
        if self._names_plainly(cache):
            before = f"{cache.key_prefix}:{cache.version}:"
            return [before + key for key in keys]
        make = cache.client.make_key if self._django_redis else cache.make_and_validate_key
        return [str(make(key)) for key in keys]

    def _names_plainly(self, cache: Any) -> bool:
        """Return whether a cache puts its prefix and its version before a key, and does nothing else to it.

        A project may have a function that makes keys and looks at anything, say at the tenant of a request.
        It is asked about each key, each time.
        """
        if cache.key_func is not default_key_func:
            return False
        if self._django_redis:
            return bool(type(cache.client).make_key.__module__ == "django_redis.client.default")
        kind = type(cache)
        return kind.make_key is _DJANGO_MAKES[0] and kind.make_and_validate_key is _DJANGO_MAKES[1]

    def _client(self) -> Any:
        cache: Any = caches[self.alias]
        client = self._clients.get(cache)
        if client is None:
            # Django makes a new one for each call, which takes as long as a question to the server.
            owner = cache.client if self._django_redis else cache._cache  # noqa: SLF001 - subclasses replace it
            client = self._clients[cache] = owner.get_client(write=True)
        return client

    def _groups(self, names: list[str]) -> list[list[str]]:
        """Return keys by the slots of a cluster in which they lie, in their order."""
        client = self._raising(self._client)
        if not hasattr(client, "keyslot"):
            return [names]
        groups: dict[int, list[str]] = {}
        for name in names:
            groups.setdefault(client.keyslot(name), []).append(name)
        return list(groups.values())

    # Exchanges.

    def _ask_all(self, commands: list[Command], *, refusable: bool) -> None:
        client = self._raising(self._client)
        together = [commands] if not hasattr(client, "keyslot") else [[one] for one in commands]
        for group in together:
            self._ask(group, refusable=refusable)

    def _ask(self, commands: list[Command], *, refusable: bool = False) -> tuple[str, list[Any]]:
        """Send commands that belong to one node, and return the name of the server and its answers.

        :raises StoreAway: no answer, or an error.
        :raises StoreRefused: the server has not taken an entry.
        """
        server, answers = self._exchanged(commands)
        for answer in answers:
            if isinstance(answer, Exception):
                refused = StoreRefused if refusable else StoreAway
                raise refused(f"{type(answer).__name__}: {answer}") from answer
        return server, answers

    def _exchanged(self, commands: list[Command]) -> tuple[str, list[Any]]:
        exchanged: tuple[str, list[Any]] = self._raising(lambda: self._exchange(self._client(), commands))
        return exchanged

    def _exchange(self, client: Any, commands: list[Command]) -> tuple[str, list[Any]]:
        if not hasattr(client, "get_node_from_key"):
            return self._on_node(client, commands)
        try:
            return self._in_cluster(client, commands)
        except _errors().ConnectionError:
            # The node may be gone for good: who has its slots now is asked of the others, for the next time.
            with suppress(_errors().RedisError):
                client.nodes_manager.initialize()
            raise

    def _in_cluster(self, client: Any, commands: list[Command]) -> tuple[str, list[Any]]:
        node = client.get_node_from_key(commands[0].key)
        asking = False
        for _ in range(REDIRECTIONS):
            server, answers = self._on_node(client.get_redis_connection(node), commands, asking=asking)
            elsewhere = next((one for one in answers if isinstance(one, _errors().AskError)), None)
            if elsewhere is None:
                return server, answers
            # MOVED is for good; ASK is for this command alone.
            asking = not isinstance(elsewhere, _errors().MovedError)
            if not asking:
                client.nodes_manager.initialize()
            node = client.get_node(elsewhere.host, elsewhere.port) or client.get_node_from_key(
                commands[0].key
            )
        raise StoreAway("the cluster sends us to and fro")

    def _on_node(
        self, client: Any, commands: list[Command], *, asking: bool = False
    ) -> tuple[str, list[Any]]:
        pool = client.connection_pool
        connection = _checked_out(pool)
        try:
            return connection.retry.call_with_retry(  # type: ignore[no-any-return]
                lambda: self._on_connection(connection, commands, asking=asking),
                lambda _error: connection.disconnect(),
            )
        except BaseException:
            # An answer that was not waited for must not be taken for that to the next question.
            connection.disconnect()
            raise
        finally:
            pool.release(connection)

    def _on_connection(
        self, connection: Any, commands: list[Command], *, asking: bool
    ) -> tuple[str, list[Any]]:
        sent = [self._words(one, "EVALSHA") for one in commands]
        *answers, about = _answers(connection, [*sent, _ABOUT], asking=asking)
        server = _name(about)
        for at, answer in enumerate(answers):
            if isinstance(answer, _errors().NoScriptError):
                answers[at] = self._with_text(connection, commands[at], server, asking=asking)
        if any(isinstance(one, _errors().ReadOnlyError) for one in answers):
            raise _errors().ConnectionError("the server has become a replica")
        return server, answers

    def _with_text(self, connection: Any, command: Command, server: str, *, asking: bool) -> Any:
        """Run a script that the server does not know yet; before Redis 7 it may not even understand it."""
        flags = self._flags
        sent = [self._words(command, "EVAL"), _ABOUT]
        answer, about = _answers(connection, sent, asking=asking)
        if _name(about) != server:
            raise _errors().ConnectionError("the server has changed its role in between")
        if flags and isinstance(answer, _errors().ResponseError) and "compiling" in str(answer):
            self._flags = False
            return self._with_text(connection, command, server, asking=asking)
        return answer

    def _words(self, command: Command, verb: str) -> tuple[Any, ...]:
        """Return what is sent for a command.

        :param verb: ``EVAL`` or ``EVALSHA``, for a script.
        """
        if command.scripts is None:
            return command.words
        script = command.scripts.flagged if self._flags else command.scripts.plain
        return (verb, script.text if verb == "EVAL" else script.sha, *command.words)


_ABOUT = ("INFO", "replication")
"""Asked in the same exchange as everything else, and after it: a server can lose its role at any time, and
need not tell those who are connected."""

_HISTORY = b"master_replid:"


def _name(about: Any) -> str:
    """Return the name of a server: the history of writes that it belongs to.

    It is new whenever a server starts as a primary, or becomes one (Redis documentation, replication). A
    server that may not tell, because of its access rules, has no name.

    :raises redis.exceptions.ConnectionError: the server is a replica, which may not have the last mark.
    """
    if not isinstance(about, (bytes, str)):
        return ""
    text = about.encode() if isinstance(about, str) else about
    if b"role:" in text and b"role:master" not in text:
        raise _errors().ConnectionError("the server is a replica")
    return text.partition(_HISTORY)[2][:20].decode()


def _facts(answers: list[Any]) -> dict[bytes, bytes]:
    """Return the lines of answers to INFO, by their names."""
    texts = [one.encode() if isinstance(one, str) else bytes(one) for one in answers]
    lines = [line.split(b":", 1) for text in texts for line in text.splitlines() if b":" in line]
    return dict(lines)


def _answers(connection: Any, commands: list[tuple[Any, ...]], *, asking: bool = False) -> list[Any]:
    """Send commands in one go and return their answers; errors of the server are among them.

    :raises Exception: the connection is broken.
    """
    sent = [word for one in commands for word in ((("ASKING",), one) if asking else (one,))]
    connection.send_packed_command(connection.pack_commands(sent))
    answers = []
    for words in sent:
        try:
            answer = connection.read_response(disable_decoding=True)
        except _errors().ResponseError as error:
            answer = error
        if words != ("ASKING",):
            answers.append(answer)
    return answers


def _checked_out(pool: Any) -> Any:
    return pool.get_connection(*_arguments(type(pool).get_connection))


@lru_cache(maxsize=32)
def _arguments(get_connection: Callable[..., Any]) -> tuple[str, ...]:
    """Return what ``get_connection`` wants to be told: before redis-py 5.3 the name of the command."""
    parameters = list(inspect.signature(get_connection).parameters.values())
    required = len(parameters) > 1 and parameters[1].default is inspect.Parameter.empty
    return ("EVALSHA",) if required and parameters[1].kind is not inspect.Parameter.VAR_POSITIONAL else ()


@lru_cache(maxsize=1)
def _errors() -> Any:
    import redis.exceptions  # noqa: PLC0415 - installed only where it is used

    return redis.exceptions


def _found(keys: Sequence[str], values: Sequence[Any], server: str) -> dict[str, Any]:
    """Return what a script has found under keys, and who said so."""
    found = {key: _read(value) for key, value in zip(keys, values, strict=True) if value is not None}
    return {**found, SERVER: server} if server else found


def _milliseconds(lifetime: Lifetime) -> int:
    return max(1, int((seconds(lifetime) or STATE_SECONDS) * 1000))


_NO_LIFE = ("PX", 0)


def _life(lifetime: Life) -> tuple[Any, ...]:
    life = seconds(lifetime)
    if life is None:
        return ()
    return ("PX", max(1, int(life * 1000))) if life > 0 else _NO_LIFE


def _written(value: Any) -> bytes:
    return str(value).encode() if not isinstance(value, bytes) else _BYTES + value


def _read(value: Any) -> Any:
    """Return a value as it was written; bytes that nobody of us has written stay as they are."""
    if not isinstance(value, bytes):
        return value
    if value[:1] == _BYTES:
        return value[1:]
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value
