"""What each keyword of a reading or writing statement means for the tables around it.

The contract: one function per keyword; it is called with the walk and the position of the keyword, changes
the frame and returns the position of the next token to look at. A keyword that can also be a name is told
apart by its neighbours, and where that fails it must not hide a table: clauses that could only end a list of
tables wrongly (a column called ``offset``) are not listed here at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cachalot.analysis.walker import SINGLE_TARGET, Handler, Unreadable, Walk

if TYPE_CHECKING:
    from cachalot.analysis.lexer import Token

__all__ = ["walk"]

_SECOND_VERBS = frozenset(
    """
    ALTER BEGIN COMMIT CREATE DECLARE DELETE DROP EXEC EXECUTE IF INSERT MERGE ROLLBACK SAVE TRUNCATE
    UPDATE USE WHILE
    """.split()
)
_DML = frozenset({"DELETE", "INSERT", "MERGE", "UPDATE"})
_SET_OPERATIONS = frozenset({"ALL", "DISTINCT", "EXCEPT", "INTERSECT", "MINUS", "UNION"})
_MODIFIERS = frozenset({"DELAYED", "HIGH_PRIORITY", "IGNORE", "LOW_PRIORITY", "QUICK"})


def walk(tokens: list[Token], vendor: str) -> Walk:
    """Follow one statement (SELECT, WITH, VALUES, TABLE, INSERT, REPLACE, UPDATE, DELETE, MERGE) to its end.

    :param tokens: its tokens; parentheses are balanced.
    :param vendor: Django's ``connection.vendor``.
    :returns: the finished walk.
    :raises Unreadable: when a table cannot be named.
    """
    if vendor == "microsoft":
        _refuse_second_verb(tokens)
    walked = Walk(tokens, vendor, _HANDLERS)
    walked.run()
    return walked


def _refuse_second_verb(tokens: list[Token]) -> None:
    # SQL Server needs no separator between two statements.
    after_ctes = tokens[0][1] == "WITH"
    for position in range(1, len(tokens)):
        kind, value, _ = tokens[position]
        before = tokens[position - 1]
        if (
            kind != "w"
            or value not in _SECOND_VERBS
            or before[0] == "."
            or before[1] in {"FOR", "THEN", "AS"}
        ):
            continue
        if after_ctes and before[0] == ")" and value in _DML:
            after_ctes = False
            continue
        raise Unreadable


def _select(walk: Walk, position: int) -> int:
    frame = walk.frame
    frame.verb, frame.listing, frame.sink = "SELECT", False, walk.reads
    return position + 1


def _with(walk: Walk, position: int) -> int:
    following = position + 1
    recursive = walk.tokens[following][1] == "RECURSIVE" and walk.tokens[following + 1][1] != "AS"
    inside = walk.cte(following + recursive, recursive=recursive)
    if inside:
        return inside
    if position == walk.frame.begin:
        raise Unreadable
    return following


def _from(walk: Walk, position: int) -> int:
    frame, tokens = walk.frame, walk.tokens
    if frame.verb in {"", "INSERT", "MERGE"}:  # EXTRACT(year FROM x)
        return position + 1
    if tokens[position - 1][1] == "DISTINCT" and tokens[position - 2][1] in {"IS", "NOT"}:
        return position + 1
    changes = frame.verb in {"UPDATE", "DELETE"} and walk.vendor not in SINGLE_TARGET
    frame.sink = walk.writes if changes else walk.reads
    frame.listing = frame.expect = True
    return position + 1


def _join(walk: Walk, position: int) -> int:
    if walk.tokens[position - 1][1] != "FOR":  # USE INDEX FOR JOIN (..)
        walk.frame.expect = walk.frame.listing = walk.frame.joined = True
    return position + 1


def _straight_join(walk: Walk, position: int) -> int:
    return _join(walk, position) if walk.frame.listing else position + 1


def _apply(walk: Walk, position: int) -> int:
    return _join(walk, position) if walk.tokens[position - 1][1] in {"CROSS", "OUTER"} else position + 1


def _using(walk: Walk, position: int) -> int:
    frame = walk.frame
    if frame.verb in {"DELETE", "MERGE"} and not frame.joined:
        changes = frame.verb == "DELETE" and walk.vendor not in SINGLE_TARGET
        frame.sink = walk.writes if changes else walk.reads
        frame.listing = frame.expect = True
    frame.joined = False
    return position + 1


def _on(walk: Walk, position: int) -> int:
    walk.frame.joined = False
    ends = walk.tokens[position + 1][1] in {"CONFLICT", "DUPLICATE"}
    return _end_list(walk, position) if ends else position + 1


def _end_list(walk: Walk, position: int) -> int:
    walk.frame.listing = False
    return position + 1


def _end_list_unless_alias(walk: Walk, position: int) -> int:
    """SET, VALUES: in a SELECT only an alias can be called so, ``FROM a set(x), b``."""
    between_queries = walk.tokens[position - 1][1] in _SET_OPERATIONS
    if walk.frame.verb == "SELECT" and not between_queries:
        return walk.plain_word(position)
    return _end_list(walk, position)


def _option(walk: Walk, position: int) -> int:
    return _end_list(walk, position) if walk.vendor == "microsoft" else walk.plain_word(position)


def _group(walk: Walk, position: int) -> int:
    # USE INDEX FOR ORDER BY (..) stands inside a list of tables.
    return position + 1 if walk.tokens[position - 1][1] == "FOR" else _end_list(walk, position)


def _window(walk: Walk, position: int) -> int:
    return _end_list(walk, position) if walk.tokens[position + 2][1] == "AS" else position + 1


def _for(walk: Walk, position: int) -> int:
    tokens = walk.tokens
    following = tokens[position + 1][1]
    if following in {"UPDATE", "SHARE", "NO", "KEY"} and walk.frame.verb:
        walk.locking = True
        return _end_list(walk, position)
    if following in {"XML", "JSON", "BROWSE", "READ"}:
        return _end_list(walk, position)
    if tokens[position - 1][1] == "VALUE" and tokens[position - 2][1] == "NEXT":
        walk.functions.add("nextval")
    return position + 1


def _lock(walk: Walk, position: int) -> int:
    if walk.tokens[position + 1][1] == "IN" and walk.tokens[position + 2][1] == "SHARE":
        walk.locking = True
        return _end_list(walk, position)
    return position + 1


def _lock_hint(walk: Walk, position: int) -> int:
    walk.locking |= walk.vendor == "microsoft"
    return position + 1


def _into(walk: Walk, position: int) -> int:
    frame = walk.frame
    frame.listing = False
    kind, value, _ = walk.tokens[position + 1]
    if frame.verb == "SELECT":
        outside = walk.vendor == "mysql" and (kind == "v" or value in {"OUTFILE", "DUMPFILE"})
        walk.into |= not outside
    elif frame.verb and not frame.returning:  # INSERT ALL INTO a .. INTO b .., OUTPUT .. INTO t
        frame.sink, frame.expect = walk.writes, True
    return position + 1


def _returning(walk: Walk, position: int) -> int:
    walk.frame.returning = True
    return _end_list(walk, position)


def _table(walk: Walk, position: int) -> int:
    if walk.tokens[position + 1][0] in {"w", "i", "d"}:  # TABLE t, the same as SELECT * FROM t
        walk.frame.sink, walk.frame.expect = walk.reads, True
    return position + 1


def _sample(walk: Walk, position: int) -> int:
    walk.functions.add("tablesample")
    return position + 2


def _sequence_value(walk: Walk, position: int) -> int:
    walk.functions.add(walk.tokens[position][1].lower())
    return position + 1


def _modifiers(walk: Walk, position: int) -> int:
    """Step over what may stand between a verb and its table: IGNORE, OR REPLACE, TOP (5)."""
    tokens = walk.tokens
    while True:
        kind, value, _ = tokens[position]
        named = tokens[position + 1][0] in {"w", "i", "d"} and tokens[position + 1][1] != "SET"
        if kind == "w" and value in _MODIFIERS and named:
            position += 1
        elif kind == "w" and value == "OR" and named:
            position += 2
        elif value == "TOP" and tokens[position + 1][0] == "(":
            while tokens[position][0] not in {")", "e"}:
                position += 1
            position += 1 + (tokens[position + 1][1] == "PERCENT")
        else:
            return position


def _insert(walk: Walk, position: int) -> int:
    if position != walk.frame.begin or walk.tokens[position + 1][0] == "(":
        return walk.plain_word(position)
    frame = walk.frame
    frame.verb = "INSERT"
    position = _modifiers(walk, position + 1)
    if walk.tokens[position][1] in {"ALL", "FIRST"} and walk.vendor == "oracle":
        return position + 1  # each INTO that follows names a table
    frame.sink, frame.expect = walk.writes, True
    return position + (walk.tokens[position][1] in {"INTO", "OVERWRITE"})


def _merge(walk: Walk, position: int) -> int:
    if position != walk.frame.begin:
        return walk.plain_word(position)
    frame = walk.frame
    frame.verb, frame.sink, frame.expect = "MERGE", walk.writes, True
    position = _modifiers(walk, position + 1)
    return position + (walk.tokens[position][1] == "INTO")


def _update(walk: Walk, position: int) -> int:
    if position != walk.frame.begin:
        return walk.plain_word(position)
    return _change(walk, _modifiers(walk, position + 1), "UPDATE")


def _delete(walk: Walk, position: int) -> int:
    if position != walk.frame.begin:
        return walk.plain_word(position)
    position = _modifiers(walk, position + 1)
    if walk.vendor == "mysql":
        # DELETE a, b FROM .. JOIN ..: the targets may be aliases; the list after FROM has all the tables.
        while walk.tokens[position][1] != "FROM":
            if walk.tokens[position][0] in {"e", "(", ")"}:
                raise Unreadable
            position += 1
    return _change(walk, position + (walk.tokens[position][1] == "FROM"), "DELETE")


def _change(walk: Walk, position: int, verb: str) -> int:
    frame = walk.frame
    frame.verb, frame.sink, frame.expect = verb, walk.writes, True
    frame.listing = walk.vendor not in SINGLE_TARGET
    return position


_HANDLERS: dict[str, Handler] = {
    "APPLY": _apply,
    "CURRVAL": _sequence_value,
    "DELETE": _delete,
    "FOR": _for,
    "FROM": _from,
    "GROUP": _group,
    "HAVING": _end_list,
    "HOLDLOCK": _lock_hint,
    "INSERT": _insert,
    "INTO": _into,
    "JOIN": _join,
    "LIMIT": _end_list,
    "LOCK": _lock,
    "MERGE": _merge,
    "NEXTVAL": _sequence_value,
    "ON": _on,
    "OPTION": _option,
    "ORDER": _group,
    "REPLACE": _insert,
    "RETURNING": _returning,
    "SELECT": _select,
    "SET": _end_list_unless_alias,
    "STRAIGHT_JOIN": _straight_join,
    "TABLE": _table,
    "TABLESAMPLE": _sample,
    "UPDATE": _update,
    "UPDLOCK": _lock_hint,
    "USING": _using,
    "VALUES": _end_list_unless_alias,
    "WHERE": _end_list,
    "WINDOW": _window,
    "WITH": _with,
    "XLOCK": _lock_hint,
}
