"""Statements about the session and the transaction: settings, isolation, savepoints, two-phase commit.

The contract: each function takes the tokens of one statement, padded with end tokens, and says what it is.
:class:`Unreadable` is raised where the words are not all understood; "BEGIN" alone begins a transaction, and
before a PL/SQL block it could do anything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from cachalot.analysis.lexer import Token, canonical_table, literal_text
from cachalot.analysis.statements import Kind, Statement
from cachalot.analysis.walker import Unreadable

__all__ = ["SESSION_VERBS", "set_config"]

_LEVELS = ("read uncommitted", "read committed", "repeatable read", "serializable")
_BEGIN_WORDS = frozenset(
    """
    COMMITTED CONCURRENT CONSISTENT DEFERRABLE DEFERRED DISTRIBUTED EXCLUSIVE IMMEDIATE ISOLATION LEVEL
    NOT ONLY READ REPEATABLE SERIALIZABLE SNAPSHOT TRAN TRANSACTION UNCOMMITTED WITH WORK WRITE ,
    """.split()
)
_END_WORDS = frozenset("AND CHAIN NO RELEASE TRAN TRANSACTION WORK".split())
_ISOLATION_SETTINGS = frozenset(
    {"default_transaction_isolation", "isolation_level", "transaction_isolation", "tx_isolation"}
)
_SCOPES = frozenset({"GLOBAL", "LOCAL", "PERSIST", "PERSIST_ONLY", "SESSION"})
_SAFE_PRAGMAS = frozenset(
    """
    analysis_limit application_id auto_vacuum automatic_index busy_timeout cache_size cache_spill
    cell_size_check checkpoint_fullfsync collation_list compile_options data_version database_list
    defer_foreign_keys encoding foreign_key_check foreign_key_list foreign_keys freelist_count fullfsync
    function_list hard_heap_limit incremental_vacuum index_info index_list index_xinfo integrity_check
    journal_mode journal_size_limit legacy_alter_table locking_mode max_page_count mmap_size module_list
    optimize page_count page_size pragma_list query_only quick_check schema_version secure_delete
    shrink_memory soft_heap_limit synchronous table_info table_list table_xinfo temp_store threads
    user_version wal_autocheckpoint wal_checkpoint
    """.split()
)


def _words(tokens: list[Token]) -> list[str]:
    return [token[1] for token in tokens if token[0] != "e"]


def _level(tokens: list[Token], *, default: str) -> str:
    text = " ".join(
        (literal_text(raw) if kind in {"s", "d"} else raw).lower() for kind, _, raw in tokens if kind != "e"
    ).replace("-", " ")
    found = [level for level in _LEVELS if level in text]
    if len(found) == 1:
        return found[0]
    return "repeatable read" if "snapshot" in text and not found else default


# -- transactions


def _begin(tokens: list[Token], vendor: str) -> Statement:
    words = _words(tokens)[1:]
    named = vendor in {"microsoft", "sqlite"} and len(words) > 1 and words[-2] in {"TRAN", "TRANSACTION"}
    if set(words[:-1] if named else words) - _BEGIN_WORDS:
        raise Unreadable
    if tokens[0][1] == "START" and words[:1] != ["TRANSACTION"]:
        raise Unreadable
    level = _level(tokens, default="") if "ISOLATION" in words else ""
    return Statement(Kind.BEGIN, tokens[0][1], isolation=level)


def _end(tokens: list[Token], vendor: str) -> Statement:
    verb, words = tokens[0][1], _words(tokens)[1:]
    if words[:1] == ["PREPARED"]:
        kind = Kind.COMMIT_PREPARED if verb == "COMMIT" else Kind.ROLLBACK_PREPARED
        return Statement(kind, verb, name=_identifier(tokens[2]))
    if "TO" in words:
        target = words.index("TO") + 2
        target += tokens[target][1] == "SAVEPOINT" and tokens[target + 1][0] != "e"
        return Statement(Kind.ROLLBACK_TO, verb, name=_identifier(tokens[target]))
    if vendor == "microsoft" and words[1:] and not words[2:] and words[0] in {"TRAN", "TRANSACTION"}:
        kind = Kind.ROLLBACK_TO if verb == "ROLLBACK" else Kind.COMMIT
        return Statement(kind, verb, name=_identifier(tokens[2]))
    if set(words) - _END_WORDS:
        raise Unreadable
    chain = "CHAIN" in words and words[words.index("CHAIN") - 1] == "AND"
    return Statement(Kind.ROLLBACK if verb in {"ROLLBACK", "ABORT"} else Kind.COMMIT, verb, chain=chain)


def _identifier(token: Token) -> str:
    kind, _, raw = token
    if kind == "s":
        return literal_text(raw)
    if kind not in {"w", "i", "d", "p", "v"}:
        raise Unreadable
    return canonical_table(raw)


def _savepoint(tokens: list[Token], _vendor: str) -> Statement:
    verb = tokens[0][1]
    position = 1
    if verb == "SAVE":
        position = 2
    elif verb == "RELEASE":
        position += tokens[1][1] == "SAVEPOINT" and tokens[2][0] != "e"
    kind = Kind.RELEASE if verb == "RELEASE" else Kind.SAVEPOINT
    return Statement(kind, verb, name=_identifier(tokens[position]))


def _prepare(tokens: list[Token], _vendor: str) -> Statement:
    if tokens[1][1] == "TRANSACTION" and tokens[2][0] in {"s", "p"}:
        return Statement(Kind.PREPARE_TRANSACTION, "PREPARE", name=_identifier(tokens[2]))
    return Statement(Kind.HARMLESS, "PREPARE")


def _xa(tokens: list[Token], _vendor: str) -> Statement:
    action, words = tokens[1][1], _words(tokens)
    kinds = {
        "START": Kind.BEGIN,
        "BEGIN": Kind.BEGIN,
        "END": Kind.HARMLESS,
        "RECOVER": Kind.HARMLESS,
        "PREPARE": Kind.PREPARE_TRANSACTION,
        "COMMIT": Kind.COMMIT if words[-2:] == ["ONE", "PHASE"] else Kind.COMMIT_PREPARED,
        "ROLLBACK": Kind.ROLLBACK_PREPARED,
    }
    if action not in kinds:
        raise Unreadable
    name = literal_text(tokens[2][2]) if tokens[2][0] in {"s", "d"} else ""
    return Statement(kinds[action], "XA", name=name)


# -- settings


def set_config(tokens: list[Token]) -> tuple[str, bool]:
    """Read the arguments of PostgreSQL's ``set_config``.

    :param tokens: the tokens of a statement that calls it, padded.
    :returns: the setting's canonical name (``""`` when it cannot be known, or when there are several calls),
        and whether it ends with the transaction.
    """
    calls = [
        position
        for position, (kind, _, raw) in enumerate(tokens)
        if kind in {"w", "i"} and tokens[position + 1 : position + 2] and tokens[position + 1][0] == "("
        and canonical_table(raw) == "set_config"
    ]  # fmt: skip
    if len(calls) != 1:
        return "", False
    position = calls[0] + 2
    first, depth, last = tokens[position : position + 2], 1, position
    while depth and tokens[last][0] != "e":
        depth += {"(": 1, ")": -1}.get(tokens[last][0], 0)
        last += 1
    local = tokens[last - 2][1] == "TRUE" and tokens[last - 3][0] == ","
    known = first[0][0] == "s" and first[1][0] == ","
    return (_setting(literal_text(first[0][2])) if known else ""), local


def _setting(name: str) -> str:
    name = name.strip().strip('"`').lower()
    return {"timezone": "time zone", "time_zone": "time zone", "schema": "search_path"}.get(name, name)


def _set(tokens: list[Token], vendor: str) -> Statement:
    verb, position = tokens[0][1], 1
    if tokens[0][1] == "ALTER":  # ALTER SESSION SET
        position = 3
    local = False
    while tokens[position][1] in _SCOPES and tokens[position + 1][1] not in {"=", "TO", "AUTHORIZATION"}:
        local |= tokens[position][1] == "LOCAL" and vendor != "mysql"
        position += 1
    value = tokens[position][1]
    if value == "CONSTRAINTS":
        return Statement(Kind.HARMLESS, verb)
    if value == "STATEMENT":  # MariaDB: SET STATEMENT x = 1 FOR any statement
        raise Unreadable
    if value in {"TRANSACTION", "CHARACTERISTICS"}:
        return Statement(Kind.ISOLATION, verb, isolation=_transaction_level(tokens[position:]), local=local)
    if vendor == "mysql" and value not in {"NAMES", "CHARACTER", "CHARSET", "ROLE", "PASSWORD", "DEFAULT"}:
        return _mysql_assignments(tokens, position)
    name, after = _set_name(tokens, position)
    reset = tokens[after][1] == "DEFAULT" or (name == "role" and tokens[after][1] == "NONE")
    if name in _ISOLATION_SETTINGS:
        level = _level(tokens[after:], default="default")
        return Statement(Kind.ISOLATION, verb, name=name, local=local, reset=reset, isolation=level)
    return Statement(Kind.CONTEXT, verb, name=name, local=local, reset=reset)


def _transaction_level(tokens: list[Token]) -> str:
    words = _words(tokens)
    if "ISOLATION" in words:
        return _level(tokens, default="default")
    return (
        "default" if words[1:2] == ["SNAPSHOT"] else ""
    )  # SNAPSHOT 'id' looks at another transaction's state


def _set_name(tokens: list[Token], position: int) -> tuple[str, int]:
    kind, value, raw = tokens[position]
    following = tokens[position + 1][1]
    if value == "TIME" and following == "ZONE":
        return "time zone", position + 2
    if (value == "SESSION" and following == "AUTHORIZATION") or value == "AUTHORIZATION":
        return "session_authorization", position + 1 + (value == "SESSION")
    if value == "NAMES" or (value in {"CHARACTER", "CHARSET"} and kind == "w"):
        return "names", position + 1
    if kind not in {"w", "i", "d"}:
        return "", position
    name = raw if kind == "w" else raw.strip('"`')
    while tokens[position + 1][0] == "." and tokens[position + 2][0] in {"w", "i"}:
        position += 2
        name += "." + tokens[position][2].strip('"')
    position += 1
    return _setting(name), position + (tokens[position][1] in {"=", "TO"})


def _mysql_assignments(tokens: list[Token], position: int) -> Statement:
    names: list[str] = []
    isolation = ""
    depth, start = 0, True
    for index in range(position, len(tokens)):
        kind, _, raw = tokens[index]
        depth += {"(": 1, ")": -1}.get(kind, 0)
        if kind == "," and not depth:
            start = True
        elif start and raw.upper() not in _SCOPES and kind in {"w", "i", "v"}:
            start = False
            name = _setting(raw.split(".")[-1].lstrip("@")) if raw[:2] == "@@" or kind != "v" else raw.lower()
            names.append(name)
            if name in _ISOLATION_SETTINGS:
                isolation = _level(tokens[index + 1 :], default="default")
    if isolation:
        return Statement(Kind.ISOLATION, "SET", name=names[0] if len(names) == 1 else "", isolation=isolation)
    if "autocommit" in names:
        return Statement(Kind.CONTEXT, "SET", name="autocommit")
    reset = len(names) == 1 and "DEFAULT" in _words(tokens)
    return Statement(Kind.CONTEXT, "SET", name=names[0] if len(names) == 1 else "", reset=reset)


def _reset(tokens: list[Token], _vendor: str) -> Statement:
    if tokens[1][1] == "ALL":
        return Statement(Kind.CONTEXT, "RESET", name="*", reset=True)
    name, _ = _set_name(tokens, 1)
    if name in _ISOLATION_SETTINGS:
        return Statement(Kind.ISOLATION, "RESET", name=name, reset=True, isolation="default")
    return Statement(Kind.CONTEXT, "RESET", name=name, reset=True)


def _discard(tokens: list[Token], _vendor: str) -> Statement:
    what = tokens[1][1]
    if what == "ALL":
        return Statement(Kind.CONTEXT, "DISCARD", name="*", reset=True)
    if what in {"PLANS", "SEQUENCES"}:
        return Statement(Kind.HARMLESS, "DISCARD")
    raise Unreadable  # DISCARD TEMP drops tables


def _use(_tokens: list[Token], _vendor: str) -> Statement:
    return Statement(Kind.CONTEXT, "USE", name="database")


def _pragma(tokens: list[Token], _vendor: str) -> Statement:
    position = 3 if tokens[2][0] == "." else 1
    safe = tokens[position][0] == "w" and tokens[position][2].lower() in _SAFE_PRAGMAS
    return Statement(Kind.HARMLESS if safe else Kind.CONTEXT, "PRAGMA")


def _alter(tokens: list[Token], vendor: str) -> Statement:
    if tokens[1][1] == "SESSION" and tokens[2][1] == "SET" and vendor == "oracle":
        return _set(tokens, vendor)
    raise Unreadable


_Reader: TypeAlias = Callable[[list[Token], str], Statement]
SESSION_VERBS: dict[str, _Reader] = {
    "ABORT": _end,
    "ALTER": _alter,
    "BEGIN": _begin,
    "COMMIT": _end,
    "DISCARD": _discard,
    "END": _end,
    "PRAGMA": _pragma,
    "PREPARE": _prepare,
    "RELEASE": _savepoint,
    "RESET": _reset,
    "ROLLBACK": _end,
    "SAVE": _savepoint,
    "SAVEPOINT": _savepoint,
    "SET": _set,
    "START": _begin,
    "USE": _use,
    "XA": _xa,
}
