"""Follows the tokens of one statement through its parentheses, and names its tables and functions.

The contract: a table is never lost. Where the grammar leaves a doubt a name is included (a table too many
costs a cached result), and where a table cannot be named at all :class:`Unreadable` is raised.

It is not a parser. It keeps one :class:`Frame` per open parenthesis, and in each only what decides whether
the next word is a table: the verb of that query, whether a comma starts another table, and which names are
common table expressions. What each keyword does to its frame is in ``clauses.py``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypeAlias

from cachalot.analysis.lexer import END, Token, canonical_table, literal_text, quoted_text

__all__ = ["SINGLE_TARGET", "Frame", "Handler", "Unreadable", "Walk"]

# Keywords that may stand before a parenthesis without calling anything.
_NOT_CALLS = frozenset(
    """
    AGAINST ALL AND ANY ARRAY AS BETWEEN BY CASE CAST CHECK COLLATE COLUMNS CONFLICT CUBE DISTINCT DISTINCTROW
    DIV ELSE END ESCAPE EXCEPT EXISTS FILTER FORCE FROM GROUP HAVING IGNORE ILIKE IN INCLUDE INDEX
    INTERSECT INTERVAL INTO IS JOIN KEY LATERAL LIKE LIMIT MATCH MATERIALIZED MINUS NOT NULL OF OFFSET ON
    ONLY OPTION OR ORDER OUTPUT OVER OVERLAPS PARTITION PIVOT QUALIFY REGEXP REPEATABLE RETURNING RLIKE
    ROLLUP ROW SELECT SET SETS SOME TABLE THEN TO TOP UNION UNIQUE UNPIVOT USE USING VALUES VARYING WHEN
    WHERE WINDOW WITH WITHIN XOR ZONE
    """.split()
)
# Types that take a size: numeric(10, 2) is no call, char(x) is one.
_SIZED_TYPES = frozenset(
    """
    BINARY BIT CHAR CHARACTER DATETIME DATETIME2 DATETIMEOFFSET DEC DECIMAL DOUBLE FLOAT INT INTEGER NCHAR
    NUMBER NUMERIC NVARCHAR NVARCHAR2 PRECISION RAW TIME TIMESTAMP TIMESTAMPTZ TIMETZ VARBINARY VARBIT
    VARCHAR VARCHAR2
    """.split()
)
_NILADIC = frozenset({"CURRENT_DATE", "CURRENT_TIME", "CURRENT_TIMESTAMP"})
_NILADIC_STANDARD = _NILADIC | frozenset(
    """
    CURRENT_CATALOG CURRENT_PATH CURRENT_ROLE CURRENT_SCHEMA CURRENT_USER LOCALTIME LOCALTIMESTAMP
    SESSION_USER SYSTEM_USER
    """.split()
)
_NILADIC_BY_VENDOR = {
    "sqlite": _NILADIC,
    "postgresql": _NILADIC_STANDARD | {"USER"},
    "mysql": _NILADIC_STANDARD | {"UTC_DATE", "UTC_TIME", "UTC_TIMESTAMP", "SYSDATE"},
    "oracle": _NILADIC_STANDARD | {"DBTIMEZONE", "SESSIONTIMEZONE", "SYSDATE", "SYSTIMESTAMP", "UID", "USER"},
    "microsoft": _NILADIC_STANDARD | {"USER"},
}
_NILADIC_ANY = frozenset().union(*_NILADIC_BY_VENDOR.values())
# Without an argument that names a time these look at the clock; then they are reported as "date()".
_CLOCKS = frozenset(
    {"date", "datetime", "julianday", "time", "timestamp", "unixepoch", "unix_timestamp", "strftime"}
)
# Words that may stand between FROM and a table, and those that start a query.
_BEFORE_TABLE = frozenset({"LATERAL", "ONLY", "TABLE"})
_QUERY_STARTS = frozenset(
    {"DELETE", "INSERT", "MERGE", "REPLACE", "SELECT", "TABLE", "UPDATE", "VALUES", "WITH"}
)
_QUERY_IN_PARENTHESES = frozenset({"SELECT", "TABLE", "VALUES", "WITH"})
# Where the FROM list of UPDATE and DELETE is only read. Elsewhere it may hold, or alias, what is changed.
SINGLE_TARGET = frozenset({"oracle", "postgresql", "sqlite"})
_CHAINED = re.compile(r'["`\]]\.["`\[]')


class Unreadable(Exception):
    """The statement cannot be followed; anything may be in it."""


class Frame:
    """What is known inside one pair of parentheses, or at the top."""

    __slots__ = (
        "aliasable",
        "begin",
        "call",
        "commas",
        "ctes",
        "expect",
        "joined",
        "listing",
        "returning",
        "sink",
        "verb",
        "with_name",
    )

    def __init__(self, begin: int, ctes: frozenset[str], sink: set[str]) -> None:
        self.begin = begin  # where its statement starts
        self.ctes = ctes  # common table expressions that can be seen here
        self.sink = sink  # reads or writes
        self.verb = ""  # "" for an expression
        self.call = ""  # the function whose arguments these are
        self.with_name = ""  # the common table expression that the next closing parenthesis defines
        self.commas = 0
        self.listing = False  # a comma starts another table
        self.expect = False  # the next token is a table
        self.joined = False  # a table was joined and its condition is still to come
        self.aliasable = False  # the next closing parenthesis may be followed by an alias
        self.returning = False


class Walk:
    """Reads one statement; the answer is in its attributes."""

    def __init__(self, tokens: list[Token], vendor: str, handlers: Mapping[str, Handler]) -> None:
        self.tokens = [*tokens, END, END, END]
        self.vendor = vendor
        self.handlers = handlers
        self.recursive = False
        self.reads: set[str] = set()
        self.writes: set[str] = set()
        self.functions: set[str] = set()
        self.locking = False
        self.into = False  # SELECT .. INTO a new table or a variable of a procedure
        self.niladic = _NILADIC_BY_VENDOR.get(vendor, _NILADIC_ANY)
        self.frame = Frame(0, frozenset(), self.reads)
        self.stack: list[Frame] = []

    def run(self) -> None:
        """Walk to the end.

        :raises Unreadable: when a table cannot be named.
        """
        tokens = self.tokens
        position, end = 0, len(tokens) - 3
        while position < end:
            kind, value, _ = tokens[position]
            if self.frame.expect:
                position = self._table(position)
            elif kind == "i":
                called = tokens[position + 1][0] == "(" and tokens[position - 1][1] != "AS"
                position = self._call(position) if called else position + 1
            elif kind == "w":
                position = self._word(position, value)
            elif kind == ",":
                self.frame.commas += 1
                self.frame.expect = self.frame.listing
                self.frame.joined = False
                position += 1
            elif kind == "(":
                self._open(position + 1)
                position += 1
            elif kind == ")":
                position = self._close(position + 1)
            else:
                if kind == "v":
                    self._variable(position)
                position += 1
        if self.frame.expect or self.frame.with_name:
            raise Unreadable

    def _word(self, position: int, value: str) -> int:
        if value in self.handlers and self._is_keyword(position):
            return self.handlers[value](self, position)
        if value in self.niladic and self.tokens[position + 1][0] != "(" and self._is_value(position):
            self.functions.add(value.lower())
        return self.plain_word(position)

    # -- parentheses

    def _open(self, begin: int) -> Frame:
        parent = self.frame
        self.stack.append(parent)
        self.frame = Frame(begin, parent.ctes, self.reads)
        return self.frame

    def _close(self, position: int) -> int:
        if not self.stack:
            raise Unreadable
        frame, parent = self.frame, self.stack.pop()
        self.frame = parent
        if frame.expect:
            raise Unreadable
        if frame.call in _CLOCKS and (
            frame.begin == position - 1 or (frame.call == "strftime" and not frame.commas)
        ):
            self.functions.add(f"{frame.call}()")
        if parent.with_name:
            parent.ctes |= {parent.with_name}
            parent.with_name = ""
            return self._after_cte(position)
        if parent.aliasable:
            parent.aliasable = False
            return self._alias(position)
        return position

    # -- names

    def _is_keyword(self, position: int) -> bool:
        before = self.tokens[position - 1]
        if before[0] == "." or before[1] == "AS":
            return self.tokens[position][1] in {"CURRVAL", "NEXTVAL"}  # sequence.nextval
        return self.tokens[position + 1][0] != "." or self.tokens[position + 2][0] == "."  # FROM ..t

    def plain_word(self, position: int) -> int:
        """Step over a word that is no keyword here."""
        return self._call(position) if self.tokens[position + 1][0] == "(" else position + 1

    def _is_value(self, position: int) -> bool:
        before, after = self.tokens[position - 1], self.tokens[position + 1]
        if before[0] == "." or before[1] == "AS" or after[0] == ".":
            return False
        # "SELECT x user", "SELECT f(x) user": an alias, for two values cannot follow each other.
        return not (before[0] in {"i", "s", "n", "p", ")"} and before[1] != "TIMESTAMP")

    def _text(self, position: int) -> str:
        kind, _, raw = self.tokens[position]
        return quoted_text(raw) if kind in {"i", "d"} else raw

    def _name_at(self, position: int) -> bool:
        kind = self.tokens[position][0]
        if kind == "s":
            return self.vendor == "sqlite"  # which takes 'name' for "name" where only a name can stand
        return kind in {"w", "i", "d"} or (kind == "n" and self.vendor == "mysql")

    def _cte_key(self, position: int) -> str:
        """Spell a name so that equal keys are certainly the same common table expression."""
        kind, value, raw = self.tokens[position]
        if self.vendor == "sqlite":
            return self._text(position).lower()
        if kind == "w" and self.vendor in {"oracle", "postgresql"}:
            return value if self.vendor == "oracle" else raw.lower()
        return self._text(position)

    def _call(self, position: int) -> int:
        """Note the function before an opening parenthesis, and step inside."""
        kind, value, _ = self.tokens[position]
        name = ""
        if kind != "w" or self.tokens[position - 1][0] == "." or self._is_call(position, value):
            name = canonical_table(self._text(position))
            self.functions.add(name)
        self._open(position + 2).call = name
        return position + 2

    def _is_call(self, position: int, value: str) -> bool:
        before = self.tokens[position - 1]
        if value in _NOT_CALLS or before[1] == "AS" or before[0] == "::":
            return False
        if before[1] == "THEN" and value == "INSERT":  # MERGE .. THEN INSERT (columns)
            return False
        return not (value in _SIZED_TYPES and self.tokens[position + 2][0] == "n")

    def _variable(self, position: int) -> None:
        raw = self.tokens[position][2]
        if self.vendor == "mysql" or raw.startswith("@@"):
            self.functions.add(raw.lower())

    # -- tables

    def _table(self, position: int) -> int:
        """Take the table that must stand here."""
        tokens, frame = self.tokens, self.frame
        kind, value, _ = tokens[position]
        if kind == "(":
            return self._table_frame(position)
        if kind == "w":
            follower = tokens[position + 1]
            if value in _BEFORE_TABLE and (
                follower[0] in {"w", "i", "("} and follower[1] not in self.handlers
            ):
                return position + 1
            if value == "ROWS" and follower[1] == "FROM":  # ROWS FROM (f(x), g(x))
                return position + 2
            if frame.begin == position and value in _QUERY_IN_PARENTHESES:
                if frame.sink is self.writes and self.vendor in SINGLE_TARGET:  # UPDATE (SELECT ..)
                    raise Unreadable
                frame.expect = frame.listing = False
                frame.sink = self.reads
                return position
        if kind == "v" and self.vendor == "microsoft":
            frame.expect = False
            return self._alias(position + 1)
        if not self._name_at(position):
            raise Unreadable
        return self._named_table(position)

    def _table_frame(self, position: int) -> int:
        parent = self.frame
        parent.expect, parent.aliasable = False, True
        child = self._open(position + 1)
        child.expect = child.listing = True
        child.sink = parent.sink
        return position + 1

    def _named_table(self, position: int) -> int:
        tokens, frame = self.tokens, self.frame
        first = position
        while tokens[position + 1][0] == ".":
            position += 2
            if tokens[position][0] == ".":  # db..table
                position += 1
            if not self._name_at(position):
                raise Unreadable
        dotted = position > first
        if tokens[position + 1][0] == "n" and tokens[position + 1][1][0] == "." and self.vendor == "mysql":
            position, dotted = position + 1, True  # db.2table
        frame.expect = False
        if tokens[position + 1][0] == "(" and frame.verb != "INSERT":
            if self.vendor == "microsoft":  # FROM t (NOLOCK), or a function
                self._add(position, frame.sink)
            frame.aliasable = True
            return self._call(position)
        if tokens[first][1] == "DUAL" and self.vendor in {"mysql", "oracle"}:
            return self._alias(position + 1)
        if not dotted and self._is_cte(position):
            if frame.sink is self.reads or self.vendor == "mysql":
                return self._alias(position + 1)
            if self.vendor not in SINGLE_TARGET:
                raise Unreadable
        self._add(position, frame.sink)
        return self._alias(position + 1)

    def _is_cte(self, position: int) -> bool:
        # The token may be a chain: "public"."t" is never a common table expression.
        if _CHAINED.search(self.tokens[position][2]):
            return False
        return bool(self.frame.ctes) and self._cte_key(position) in self.frame.ctes

    def _add(self, position: int, sink: set[str]) -> None:
        kind, _, raw = self.tokens[position]
        sink.add(canonical_table(literal_text(raw) if kind == "s" else raw.lstrip(".")))

    def _alias(self, position: int) -> int:
        """Step over the alias of a table; a word that opens no clause is one."""
        kind, value, _ = self.tokens[position]
        if kind == "w":
            if value == "AS":
                return position + 1 if self.tokens[position + 1][0] == "(" else position + 2
            opens = value in self.handlers and self.tokens[position + 1][0] not in {",", "e"}
            return position if opens else position + 1
        return position + 1 if kind in {"i", "s", "d"} else position

    # -- common table expressions

    def cte(self, position: int, *, recursive: bool) -> int:
        """Read ``name [(columns)] AS [NOT] [MATERIALIZED] (``; 0 when it is something else."""
        tokens = self.tokens
        if tokens[position][0] not in {"w", "i", "d", "s"}:
            return 0
        key = self._cte_key(position)
        position += 1
        if tokens[position][0] == "(":
            position += 1
            while tokens[position][0] not in {"(", ")", "e"}:
                position += 1
            if tokens[position][0] != ")":  # a list of columns has no parentheses in it
                return 0
            position += 1
        if tokens[min(position, len(tokens) - 1)][1] != "AS":
            return 0
        position += 1
        while tokens[position][1] in {"NOT", "MATERIALIZED"}:
            position += 1
        if tokens[position][0] != "(":
            return 0
        self.frame.with_name = key
        child = self._open(position + 1)
        # SQLite and SQL Server see the name in its own body without the word RECURSIVE; the others see a real
        # table.
        if recursive or self.vendor in {"sqlite", "microsoft"}:
            child.ctes |= {key}
        self.recursive = recursive
        return position + 1

    def _after_cte(self, position: int) -> int:
        tokens = self.tokens
        while True:  # PostgreSQL's SEARCH and CYCLE clauses may stand in between
            kind, value, _ = tokens[position]
            if kind == ",":
                following = self.cte(position + 1, recursive=self.recursive)
                if following:
                    return following
            elif (kind == "w" and value in _QUERY_STARTS) or kind == "(":
                self.frame.begin = position
                return position
            elif kind in {"e", ")"}:
                raise Unreadable
            position += 1


Handler: TypeAlias = Callable[[Walk, int], int]
