"""What must hold for the analysis of any SQL text, as one function of bytes.

The first byte chooses the database (p, m, l, o, s or x for an unknown one; any other by its number), the rest
is the text in UTF-8. ``check`` runs under the fuzzer (``make fuzz``) and over the corpus
(``test_corpus.py``).

SQLite is at hand everywhere, so it is asked itself: what it compiles, it tells which tables that reads and
writes, and each of them must have been named.
"""

from __future__ import annotations

import sqlite3
import time
from typing import TYPE_CHECKING

from cachalot.analysis.lexer import Token, canonical_table, lex
from cachalot.analysis.rawsql import analyse
from cachalot.analysis.statements import Kind, Statement

if TYPE_CHECKING:
    from collections.abc import Sequence

VENDORS = {"p": "postgresql", "m": "mysql", "l": "sqlite", "o": "oracle", "s": "microsoft", "x": "other"}
#: Characters of a text that is long.
LONG = 96 * 1024
#: Seconds of processor time for one. Linear work takes a tenth of it, work that grows with the square more.
PATIENCE = 3.0

_SEPARATORS = (" ", "\n\t", " /* ' \" FROM zz ( ; $a$ */ ", " -- ' \" FROM zz ( ; $a$\n")
_WRITING = frozenset({"DELETE", "INSERT", "MERGE", "REPLACE", "UPDATE"})
_CHANGED = frozenset({Kind.UNKNOWN, Kind.WRITE})
_ROWS = frozenset({Kind.READ, Kind.WRITE})
_MARKER = "zqliteral"
# Names that are keywords elsewhere stand among them: they may hide another table.
_TABLES = ("a", "b", "t", "u", "offset", "option", "first", "of", "user", "2t", "é")


def check(data: bytes) -> None:
    """Fail unless everything that is promised about this text holds.

    :param data: a byte for the database, and a text.
    """
    if not data:
        return
    letter = chr(data[0])
    vendor = VENDORS.get(letter) or list(VENDORS.values())[data[0] % len(VENDORS)]
    check_text(data[1:].decode("utf-8", "replace"), vendor)


def check_text(sql: str, vendor: str) -> None:
    """Fail unless everything that is promised about this text holds.

    :param sql: the text.
    :param vendor: of the database, as Django names it.
    """
    found = analyse(sql, vendor)
    _is_consistent(found)
    _is_not_hidden_by_what_stands_before(sql, vendor)
    tokens = lex(sql, vendor)
    if tokens is None:
        assert [one.kind for one in found] == [Kind.UNKNOWN]
        return
    if tokens and tokens[0][0] == "w" and tokens[0][1] in _WRITING:
        assert found[0].kind in _CHANGED, f"begins with {tokens[0][1]} and is {found[0].kind}"
    # A quote after a backslash is read in two ways, and which one is right may hang on a comment.
    if "\\'" not in sql or vendor not in {"mysql", "postgresql"}:
        _does_not_depend_on_blanks(found, tokens, vendor)
        _does_not_depend_on_case(found, tokens, vendor)
        _does_not_look_into_literals(found, tokens, vendor)
    if vendor == "sqlite":
        _agrees_with_sqlite(sql, found)


def check_long(sql: str, vendor: str) -> None:
    """Fail unless the time for a text grows with its length and not faster.

    :param sql: the text, which is repeated; then once more with the parentheses closed that it opens.
    :param vendor: of the database, as Django names it.
    """
    text = sql * (LONG // len(sql))
    for long in (text, "SELECT " + text + ")" * text.count("(")):
        started = time.thread_time()
        analyse(long, vendor)
        assert time.thread_time() - started < PATIENCE, "the time grows faster than the text"


def _is_consistent(found: Sequence[Statement]) -> None:
    assert found
    for one in found:
        if one.kind is Kind.WRITE:
            assert one.writes
        elif one.kind is not Kind.UNKNOWN:
            assert not one.writes, f"a {one.kind.name} that writes"
        assert all(name == name.casefold() for name in one.reads | one.writes)


def _is_not_hidden_by_what_stands_before(sql: str, vendor: str) -> None:
    """A write after a text is seen, unless the text swallows it, and then the text is not understood."""
    for write in ("DROP TABLE x", "DELETE FROM x"):
        # On a line of its own, for a comment may be the last thing in the text.
        kinds = {one.kind for one in analyse(f"{sql}\n;{write}", vendor)}
        assert kinds & _CHANGED, f"{write} is hidden"


def _verdict(found: Sequence[Statement]) -> list[object]:
    """What must be equal; the first word of what is not understood is for people only."""
    return [one if one.kind is not Kind.UNKNOWN else Kind.UNKNOWN for one in found]


def _joined(tokens: Sequence[Token], separator: str) -> str:
    return separator.join(text for _kind, _value, text in tokens)


def _does_not_depend_on_blanks(found: Sequence[Statement], tokens: Sequence[Token], vendor: str) -> None:
    for separator in _SEPARATORS:
        other = analyse(_joined(tokens, separator), vendor)
        assert _verdict(other) == _verdict(found), f"with {separator!r} between the tokens: {other}"


def _does_not_depend_on_case(found: Sequence[Statement], tokens: Sequence[Token], vendor: str) -> None:
    quoted = any(kind in {"i", "d", "s"} for kind, _value, _text in tokens)
    if quoted and vendor in {"mysql", "microsoft", "other"}:
        return  # a quoted name may mean the same as a bare one of the same case
    # Names change with the keywords: two that differ in case only may be two names, and stay two.
    swapped = [
        (kind, value, text.swapcase() if kind == "w" and text.isascii() else text)
        for kind, value, text in tokens
    ]
    other = analyse(_joined(swapped, " "), vendor)
    assert _without_settings(other) == _without_settings(found), (
        f"with the case of all words changed: {other}"
    )


def _without_settings(found: Sequence[Statement]) -> list[object]:
    """What does not depend on the case of words; the name of a variable of MySQL does."""
    return [(one.kind, one.reads, one.writes, one.functions, one.locking, one.isolation) for one in found]


def _does_not_look_into_literals(found: Sequence[Statement], tokens: Sequence[Token], vendor: str) -> None:
    if vendor == "sqlite":
        return  # 'name' is a name there wherever only a name can stand
    changed = [(kind, value, f"'{_MARKER}'" if kind == "s" else text) for kind, value, text in tokens]
    other = analyse(_joined(changed, " "), vendor)
    for one in other:
        named = one.reads | one.writes | one.functions
        assert not any(_MARKER in name for name in named), "a literal became a name"
    for before, after in zip(found, other, strict=True):
        if before.kind in _ROWS or after.kind in _ROWS:
            assert (before.kind, before.reads, before.writes) == (after.kind, after.reads, after.writes)


# What SQLite says.


def _connect() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for name in _TABLES:
        connection.execute(f'CREATE TABLE "{name}" (i INTEGER PRIMARY KEY, x, y, "from", "values")')
    return connection


_sqlite = _connect()
_FORBIDDEN = frozenset({sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH, sqlite3.SQLITE_PRAGMA})
_CHANGES = frozenset({sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE})


def _agrees_with_sqlite(sql: str, found: Sequence[Statement]) -> None:
    """Every table that SQLite touches when it compiles a statement is named."""
    if "\0" in sql or len(found) != 1:
        return
    reads: set[str] = set()
    writes: set[str] = set()

    def note(action: int, table: str | None, *_rest: object) -> int:
        if action in _FORBIDDEN:
            return sqlite3.SQLITE_DENY
        if table in _TABLES:
            if action in _CHANGES:
                writes.add(canonical_table(table))
            elif action == sqlite3.SQLITE_READ:
                reads.add(canonical_table(table))
        return sqlite3.SQLITE_OK

    _sqlite.set_authorizer(note)
    try:
        # It is compiled and explained, and not run.
        _sqlite.execute(f"EXPLAIN {sql}").close()
    except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError, MemoryError):
        return
    finally:
        _sqlite.set_authorizer(None)
    (one,) = found
    if one.kind is Kind.UNKNOWN:
        return
    assert writes <= one.writes, f"SQLite writes {writes}, named are {one.writes}"
    assert reads <= one.reads | one.writes, f"SQLite reads {reads}, named are {one.reads}"
