"""Says what each statement of a SQL text is, and which tables it names; the only witness for raw writes.

The contract: :func:`analyse` never raises and never guesses. A statement is a READ only if it certainly
changes nothing, a WRITE only if it certainly changes no table but those in ``writes``; what is not understood
is UNKNOWN, which means that anything may have changed. Whether a *function* that is called changes rows is
not decided here: the names are reported, and ``volatility.py`` knows them.

The verbs are dispatched here, sessions and transactions in ``sessions.py``, and statements with tables are
followed by ``clauses.py``.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from cachalot.analysis.clauses import walk
from cachalot.analysis.lexer import END, Token, canonical_table, lex, literal_text, quoted_text
from cachalot.analysis.sessions import SESSION_VERBS, set_config
from cachalot.analysis.statements import Kind, Statement
from cachalot.analysis.walker import Unreadable, Walk

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Kind", "Statement", "analyse", "canonical_table"]

MEMOISED_TEXTS = 4096
MEMOISED_LENGTH = 8 * 1024  # characters; longer texts are bulk loads, each sent once

_QUERIES = frozenset({"SELECT", "WITH", "VALUES", "TABLE", "INSERT", "UPDATE", "DELETE", "MERGE", "REPLACE"})
_READS = frozenset({"FETCH", "MOVE", "SHOW", "CHECKSUM", "HELP"})
_HARMLESS = frozenset(
    """
    CHECK CHECKPOINT CLOSE DEALLOCATE KILL LISTEN LOCK NOTIFY UNLISTEN UNLOCK VACUUM
    """.split()
)
# These end MySQL's open transaction by themselves, and with it make its rows visible.
_COMMITTING_ON_MYSQL = frozenset({"CHECK", "LOCK", "UNLOCK"})
_EXPLAIN_OPTIONS = frozenset({"ANALYSE", "ANALYZE", "FORMAT", "JSON", "TRADITIONAL", "TREE", "VERBOSE"})
_OFF = frozenset({"OFF", "FALSE", "0"})


def analyse(sql: str, vendor: str) -> tuple[Statement, ...]:
    """Say what each statement of a text is.

    :param sql: one or more statements, as handed to a DB-API cursor.
    :param vendor: Django's ``connection.vendor``; an unknown vendor is read by the rules of standard SQL.
    :returns: one :class:`Statement` each, at least one; a text that cannot be cut with certainty is one
        UNKNOWN.
    """
    return _memoised(sql, vendor) if len(sql) <= MEMOISED_LENGTH else _analyse(sql, vendor)


def _analyse(sql: str, vendor: str) -> tuple[Statement, ...]:
    statements = _read(sql, vendor, other_reading=False)
    # A quote after a backslash ends the literal or not, by a setting that is not known here.
    if vendor in {"mysql", "postgresql"} and "\\'" in sql:
        other = _read(sql, vendor, other_reading=True)
        if other is not None and (statements is None or _gist(other) != _gist(statements)):
            statements = None
    return statements or (Statement(Kind.UNKNOWN, _first_word(sql)),)


_memoised = lru_cache(maxsize=MEMOISED_TEXTS)(_analyse)


def _gist(statements: tuple[Statement, ...]) -> list[object]:
    return [(one.kind, one.reads, one.writes, one.functions, one.name) for one in statements]


def _first_word(sql: str) -> str:
    words = sql.split(None, 1)
    return words[0].upper()[:20] if words and words[0].isalpha() else ""


def _read(sql: str, vendor: str, *, other_reading: bool) -> tuple[Statement, ...] | None:
    tokens = lex(sql, vendor, other_reading=other_reading)
    parts = None if tokens is None else _split(tokens)
    if parts is None:
        return None
    statements: list[Statement] = []
    # A procedural body has semicolons of its own, and its END is no COMMIT.
    last_end = max((at for at, part in enumerate(parts) if part[0][1] == "END"), default=0)
    position = 0
    while position < len(parts):
        part = parts[position]
        statement = _statement(part, vendor)
        statements.append(statement)
        if statement.kind is Kind.UNKNOWN and any(token[1] == "BEGIN" for token in part):
            position = max(position, last_end)
        position += 1
    return tuple(statements) or (Statement(Kind.HARMLESS, ""),)


def _split(tokens: list[Token]) -> list[list[Token]] | None:
    """Cut at the semicolons; ``None`` when the parentheses do not match."""
    parts: list[list[Token]] = []
    depth, start = 0, 0
    for position, (kind, _, _) in enumerate(tokens):
        if kind == "(":
            depth += 1
        elif kind == ")":
            depth -= 1
            if depth < 0:
                return None
        elif kind == ";":
            if depth:
                return None
            parts.append(tokens[start:position])
            start = position + 1
    if depth:
        return None
    parts.append(tokens[start:])
    return [part for part in parts if part]


def _verb(tokens: list[Token]) -> str:
    for kind, value, _ in tokens:
        if kind != "(":
            return value if kind == "w" else ""
    return ""


def _statement(tokens: list[Token], vendor: str) -> Statement:
    verb = _verb(tokens)
    try:
        return _classified(tokens, verb, vendor)
    except Unreadable:
        return Statement(Kind.UNKNOWN, verb)


def _classified(tokens: list[Token], verb: str, vendor: str) -> Statement:
    if verb in _QUERIES:
        return _query(tokens, verb, vendor)
    if verb in SESSION_VERBS:
        return SESSION_VERBS[verb](_padded(tokens), vendor)
    if verb in _SPECIAL:
        return _SPECIAL[verb](_padded(tokens), vendor)
    if verb in _READS:
        return Statement(Kind.READ, verb)
    if verb in _HARMLESS and not (vendor == "mysql" and verb in _COMMITTING_ON_MYSQL):
        return Statement(Kind.HARMLESS, verb)
    return Statement(Kind.UNKNOWN, verb)


def _padded(tokens: list[Token]) -> list[Token]:
    return [*tokens, END, END, END, END]


# -- reads and writes


def _literals(tokens: list[Token], vendor: str) -> frozenset[str]:
    found = {literal_text(raw) for kind, _, raw in tokens if kind in {"s", "d"}}
    if vendor == "sqlite":
        # "now" is a string for SQLite when no column has that name.
        for before, token, after in zip(tokens, tokens[1:], tokens[2:], strict=False):
            if token[0] == "i" and before[0] in {"(", ","} and after[0] in {")", ","}:
                found.add(quoted_text(token[2]))
    return frozenset(found)


def _query(tokens: list[Token], verb: str, vendor: str) -> Statement:
    walked = walk(tokens, vendor)
    kind = _query_kind(walked, verb)
    name, local = "", False
    if "set_config" in walked.functions:
        kind = Kind.CONTEXT if kind is Kind.READ else Kind.UNKNOWN
        name, local = set_config(_padded(tokens))
    return Statement(
        kind,
        verb,
        reads=frozenset(walked.reads),
        writes=frozenset(walked.writes),
        functions=frozenset(walked.functions),
        literals=_literals(tokens, vendor),
        name=name,
        local=local,
        locking=walked.locking,
    )


def _query_kind(walked: Walk, verb: str) -> Kind:
    if walked.into:
        return Kind.UNKNOWN
    if walked.writes:
        return Kind.WRITE
    return Kind.READ if verb in {"SELECT", "WITH", "VALUES", "TABLE"} else Kind.UNKNOWN


def _inner(tokens: list[Token], verb: str, vendor: str) -> Statement:
    """Classify the query that another statement runs."""
    inner_verb = _verb(tokens)
    if inner_verb not in _QUERIES:
        raise Unreadable
    inner = _query([token for token in tokens if token is not END], inner_verb, vendor)
    return Statement(
        inner.kind, verb, inner.reads, inner.writes, inner.functions, inner.literals, inner.name, inner.local,
        locking=inner.locking,
    )  # fmt: skip


def _explain(tokens: list[Token], vendor: str) -> Statement:
    if vendor == "oracle":  # writes its answer into a table
        raise Unreadable
    verb = tokens[0][1]
    position, runs, other = 1, False, False
    if tokens[1][0] == "(" and vendor != "mysql":
        while tokens[position][0] != ")":
            runs |= tokens[position][1] in {"ANALYZE", "ANALYSE"} and tokens[position + 1][1] not in _OFF
            position += 1
    while tokens[position][0] != "e" and tokens[position][1] not in _QUERIES and tokens[position][0] != "(":
        runs |= tokens[position][1] in {"ANALYZE", "ANALYSE"} and tokens[position + 1][0] != "e"
        other |= tokens[position][0] == "w" and tokens[position][1] not in _EXPLAIN_OPTIONS
        position += 1
    if runs and other:  # EXPLAIN ANALYZE CREATE TABLE .. AS SELECT ..
        raise Unreadable
    if runs:
        return _inner(tokens[position:], verb, vendor)
    try:
        inner = _inner(tokens[position:], verb, vendor)
    except Unreadable:
        return Statement(Kind.READ, verb)
    return Statement(Kind.READ, verb, reads=inner.reads | inner.writes, functions=inner.functions)


def _analyze(tokens: list[Token], vendor: str) -> Statement:
    following = tokens[1][1]
    if vendor == "mysql":
        if following in {"TABLE", "LOCAL", "NO_WRITE_TO_BINLOG"}:  # ends the open transaction
            raise Unreadable
        return _inner(tokens[4 if following == "FORMAT" else 1 :], "ANALYZE", vendor)
    return Statement(Kind.HARMLESS, "ANALYZE")


def _declare(tokens: list[Token], vendor: str) -> Statement:
    words = [token[1] for token in tokens[:10]]
    if "CURSOR" not in words or "FOR" not in words:
        raise Unreadable
    return _inner(tokens[words.index("FOR") + 1 :], "DECLARE", vendor)


def _copy(tokens: list[Token], vendor: str) -> Statement:
    if tokens[1][0] == "(":
        depth, position = 1, 2
        while depth:
            depth += {"(": 1, ")": -1}.get(tokens[position][0], 0)
            position += 1
        return _inner(tokens[2 : position - 1], "COPY", vendor)
    table, position = _name(tokens, 1 + (tokens[1][1] == "BINARY"))
    while tokens[position][1] not in {"FROM", "TO"}:
        if tokens[position][0] == "e":
            raise Unreadable
        position += 1
    if tokens[position][1] == "FROM":
        return Statement(Kind.WRITE, "COPY", writes=frozenset({table}))
    return Statement(Kind.READ, "COPY", reads=frozenset({table}))


def _name(tokens: list[Token], position: int) -> tuple[str, int]:
    """Read a table's name; give it with the position after it."""
    while tokens[position + 1][0] == ".":
        position += 1 if tokens[position + 2][0] == "." else 2
    kind, _, raw = tokens[position]
    if kind not in {"w", "i", "d"}:
        raise Unreadable
    return canonical_table(raw), position + 1


def _truncate(tokens: list[Token], vendor: str) -> Statement:
    position = 1 + (tokens[1][1] == "TABLE")
    tables = set()
    while True:
        if tokens[position][1] == "ONLY" and tokens[position + 1][0] in {"w", "i"}:
            position += 1
        table, position = _name(tokens, position)
        tables.add(table)
        position += tokens[position][1] == "*"
        if tokens[position][0] != ",":
            break
        position += 1
    rest = {token[1] for token in tokens[position:]} - {"", "RESTART", "CONTINUE", "IDENTITY", "RESTRICT"}
    if rest and not (vendor == "microsoft" and tokens[position][1] == "WITH"):
        raise Unreadable  # CASCADE, or something new
    return Statement(Kind.WRITE, "TRUNCATE", writes=frozenset(tables))


def _load(tokens: list[Token], vendor: str) -> Statement:
    for position, token in enumerate(tokens):
        if token[1] == "INTO" and tokens[position + 1][1] == "TABLE" and tokens[1][1] in {"DATA", "XML"}:
            table, after = _name(tokens, position + 2)
            # The SET clause may call functions and hold subqueries.
            walked = walk(
                [("w", "SELECT", "SELECT"), *(one for one in tokens[after:] if one is not END)], vendor
            )
            return Statement(
                Kind.WRITE, "LOAD", frozenset(walked.reads), frozenset({table}), frozenset(walked.functions)
            )
    raise Unreadable


def _refresh(tokens: list[Token], _vendor: str) -> Statement:
    if tokens[1][1] != "MATERIALIZED" or tokens[2][1] != "VIEW":
        raise Unreadable
    table, _ = _name(tokens, 3 + (tokens[3][1] == "CONCURRENTLY"))
    return Statement(Kind.WRITE, "REFRESH", writes=frozenset({table}))


def _describe(tokens: list[Token], vendor: str) -> Statement:
    return _explain(tokens, vendor) if vendor == "mysql" else Statement(Kind.READ, tokens[0][1])


_SPECIAL: dict[str, Callable[[list[Token], str], Statement]] = {
    "ANALYZE": _analyze,
    "ANALYSE": _analyze,
    "COPY": _copy,
    "DECLARE": _declare,
    "DESC": _describe,
    "DESCRIBE": _describe,
    "EXPLAIN": _explain,
    "LOAD": _load,
    "REFRESH": _refresh,
    "TRUNCATE": _truncate,
}
