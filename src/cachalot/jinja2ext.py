"""The Jinja2 extension: ``{% cache %}`` blocks and the function ``get_last_invalidation``.

Add ``cachalot.jinja2ext.cachalot`` to the extensions of the environment::

    {% cache cache_key=get_last_invalidation('blog.Post'), timeout=3600 %}…{% endcache %}

The key identifies the block: what differs between renderings that must not be shared has to be part of it.
Without ``cache_key`` the key is the place of the block, that is the name of the template and the line; every
rendering of that place shares it until ``timeout``.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

from django.core.cache import DEFAULT_CACHE_ALIAS, caches
from django.core.cache.backends.base import DEFAULT_TIMEOUT
from jinja2 import Environment, nodes
from jinja2.ext import Extension

from cachalot import api

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from jinja2.parser import Parser

_ARGUMENTS: Final = ("cache_key", "timeout", "cache_alias")


class CachalotExtension(Extension):
    """``{% cache cache_key=…, timeout=…, cache_alias=… %}`` keeps the rendered block in a cache.

    ``timeout`` is in seconds, ``none`` means no end, and by default the timeout of the cache applies;
    ``cache_alias`` is the alias of a cache, by default ``default``. A block in a template without a name
    needs a ``cache_key``.
    """

    tags = {"cache"}  # noqa: RUF012 - the declaration of the base class

    def __init__(self, environment: Environment) -> None:
        """Add the function to the globals of the environment."""
        super().__init__(environment)
        environment.globals["get_last_invalidation"] = api.get_last_invalidation

    def parse(self, parser: Parser) -> nodes.Node:
        """Turn the block into a call of :meth:`_render` with the block as its caller."""
        lineno = next(parser.stream).lineno
        arguments = {argument.key: argument for argument in self._parse_arguments(parser)}
        if "cache_key" not in arguments:
            arguments["cache_key"] = nodes.Keyword(
                "cache_key", nodes.Const(_place(parser, lineno)), lineno=lineno
            )
        body = parser.parse_statements(("name:endcache",), drop_needle=True)
        call = self.call_method("_render", kwargs=list(arguments.values()), lineno=lineno)
        return nodes.CallBlock(call, [], [], body).set_lineno(lineno)

    def _parse_arguments(self, parser: Parser) -> list[nodes.Keyword]:
        arguments: list[nodes.Keyword] = []
        while parser.stream.current.type != "block_end":
            token = parser.stream.expect("name")
            if token.value not in _ARGUMENTS or token.value in [one.key for one in arguments]:
                parser.fail(
                    f"cache takes each of {', '.join(_ARGUMENTS)} once, not {token.value!r}", token.lineno
                )
            parser.stream.expect("assign")
            arguments.append(nodes.Keyword(token.value, parser.parse_expression(), lineno=token.lineno))
            parser.stream.skip_if("comma")
        return arguments

    def _render(
        self,
        cache_key: object,
        timeout: float | None = DEFAULT_TIMEOUT,
        cache_alias: str = DEFAULT_CACHE_ALIAS,
        *,
        caller: Callable[[], Any],
    ) -> str | Awaitable[str]:
        key = _key(cache_key)
        if self.environment.is_async:
            return _answer_async(key, timeout, cache_alias, caller)
        cache = caches[cache_alias]
        kept = cache.get(key)
        if kept is None:
            kept = str(caller())
            cache.set(key, kept, timeout)
        return str(kept)


async def _answer_async(
    key: str, timeout: float | None, cache_alias: str, caller: Callable[[], Awaitable[object]]
) -> str:
    """Do as :meth:`CachalotExtension._render` where a block is a coroutine."""
    cache = caches[cache_alias]
    kept = await cache.aget(key)
    if kept is None:
        kept = str(await caller())
        await cache.aset(key, kept, timeout)
    return str(kept)


def _place(parser: Parser, lineno: int) -> str:
    """Return what tells a block from every other: the identifier also from another one in the same line."""
    if parser.name is None:
        parser.fail("cache needs a cache_key in a template that has no name", lineno)
    return f"{parser.name}:{lineno}:{parser.free_identifier(lineno).name}"


def _key(cache_key: object) -> str:
    # Hashed, because memcached takes neither spaces nor long keys; with the type, because 1 is not "1".
    text = f"{type(cache_key).__qualname__}:{cache_key}"
    return f"cachalot.jinja2.{hashlib.sha256(text.encode()).hexdigest()}"


#: The name under which environments load the extension.
cachalot = CachalotExtension
