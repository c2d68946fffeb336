"""Cuts SQL text into tokens by the lexical rules of each database; literals and comments stay closed.

The contract: :func:`lex` either returns every token of the text or ``None``. ``None`` means that the text
cannot be cut with certainty (a literal, comment or quoted name that does not end), and whoever asked must
assume the worst. One compiled pattern per vendor does the work; only nested comments (PostgreSQL, SQL Server)
need a loop of their own.
"""

from __future__ import annotations

import re
import sys
from typing import TypeAlias

__all__ = ["END", "Token", "canonical_table", "lex", "literal_text", "quoted_text"]


# One token: its kind, its value (words in upper case, else the text), its text. Only a word can have the
# value AS; a literal keeps its quotes. Kinds: w word, i quoted name (or a dotted chain of them), s string
# literal, d text in double quotes on MySQL (literal or name, depending on sql_mode), n number, p placeholder,
# v variable (@x), o operator, e end, and each of ( ) , ; . :: for itself. A plain tuple, because one
# statement makes a hundred of them.
Token: TypeAlias = tuple[str, str, str]

END: Token = ("e", "", "")

# Bytes above 0x7f are letters to these databases, also the ones Python calls spaces: a no-break space is part
# of a name.
_WORD = {
    "postgresql": r"[A-Za-z_\x80-\ufefe\uff00-\U0010ffff][\w$\x80-\U0010ffff]*",
    "mysql": r"[A-Za-z_$\x80-\ufefe\uff00-\U0010ffff][\w$\x80-\U0010ffff]*",
    "sqlite": r"[A-Za-z_\x80-\ufefe\uff00-\U0010ffff][\w$\x80-\U0010ffff]*",
    "oracle": r"(?![nN]?[qQ]')[^\W\d][\w$#]*",
    "microsoft": r"(?:[^\W\d]|\#)[\w$#@]*",
    "other": r"[^\W\d][\w$]*",
}
_STANDARD_STRING = r"'[^']*(?:''[^']*)*'(?!')"
_BACKSLASH_STRING = r"'[^'\\]*(?:(?:\\.|'')[^'\\]*)*'(?!')"
_DOUBLE = r'"[^"]*(?:""[^"]*)*"(?!")'
_BACKTICK = r"`[^`]*(?:``[^`]*)*`(?!`)"
_BRACKET = {"sqlite": r"\[[^\]]*\]", "microsoft": r"\[[^\]]*(?:\]\][^\]]*)*\](?!\])"}
_ORACLE_QUOTED = r"[nN]?[qQ]'(?:\[.*?\]|\{.*?\}|\(.*?\)|<.*?>|(?P<delimiter>[^\s\[{(<']).*?(?P=delimiter))'"
_DOLLAR_TAG = r"\$(?:[A-Za-z_\x80-\U0010ffff][\w\x80-\U0010ffff]*)?\$"
_DOLLAR_QUOTED = r"(?P<tag>" + _DOLLAR_TAG + r").*?(?P=tag)"

_NESTED_COMMENTS = frozenset({"postgresql", "microsoft"})
_NESTING = re.compile(r"/\*|\*/")
_QUOTED_PART = re.compile(r'[uU]&"|["`\[\].]+')
_BACKSLASH = re.compile(r"\\(.)", re.DOTALL)
_UNICODE_ESCAPE = re.compile(r"\\(?:\\|\+([0-9A-Fa-f]{6})|([0-9A-Fa-f]{4}))")


def _names(vendor: str) -> str:
    parts = [] if vendor == "mysql" else [_DOUBLE]
    if vendor == "postgresql":
        parts.append("[uU]&" + _DOUBLE)
    if vendor in {"mysql", "sqlite", "other"}:
        parts.append(_BACKTICK)
    if vendor in _BRACKET:
        parts.append(_BRACKET[vendor])
    one = f"(?:{'|'.join(parts)})"
    return rf"{one}(?:\.{one})*"


def _strings(vendor: str, *, backslashes: bool) -> str:
    plain = _BACKSLASH_STRING if backslashes else _STANDARD_STRING
    parts = [rf"[nNbBxX]?{plain}"]
    if vendor == "postgresql":
        parts += [rf"[eE]{_BACKSLASH_STRING}", rf"[uU]&{_STANDARD_STRING}", _DOLLAR_QUOTED]
    if vendor == "oracle":
        parts.insert(0, _ORACLE_QUOTED)
    return "|".join(parts)


def _comments(vendor: str) -> str:
    if vendor == "mysql":
        # Without a blank, "--" is two minus signs: "5--1" is 6.
        return r"--(?=[\x00-\x20]|\Z)[^\n]*|\#[^\n]*|/\*(?!M?!).*?\*/"
    line = r"--[^\r\n]*" if vendor == "postgresql" else r"--[^\n]*"
    return line if vendor in _NESTED_COMMENTS else line + r"|/\*.*?\*/"


def _placeholders(vendor: str) -> str:
    parts = [r"%\([^()]*\)[sbt]", r"%[sbt](?!\w)", r"\$\d+", r"\?\d*"]
    if vendor in {"sqlite", "oracle", "other"}:
        # Not on PostgreSQL, where a colon may stand before a function call: a[1:f(x)].
        parts.append(r":[\w]+")
    if vendor == "sqlite":
        parts.append(r"[@$][^\W\d]\w*")
    return "|".join(parts)


def _numbers(vendor: str) -> str:
    if vendor == "mysql":
        # A name may begin with a digit here, so a number takes all that could belong to a name.
        return r"\d+\.\d*(?:[eE][+-]?\d+)?|\d+[eE][+-]\d+|\.?\d[\w$\x80-\U0010ffff]*"
    return r"(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"


def _compile(vendor: str, *, backslashes: bool) -> re.Pattern[str]:
    groups = {
        "i": _names(vendor),
        "s": _strings(vendor, backslashes=backslashes),
        "c": _comments(vendor),
        "p": _placeholders(vendor),
        "w": _WORD[vendor],
        "n": _numbers(vendor),
        "punctuation": r"::|[(),;.]",
    }
    if vendor == "mysql":
        groups["d"] = r'"[^"\\]*(?:(?:\\.|"")[^"\\]*)*"(?!")'
        groups["v"] = r"@@?(?:[\w$.]+|" + _BACKTICK + "|" + _BACKSLASH_STRING + ")?"
        groups["open"] = r"/\*M?!\d*"
        groups["close"] = r"\*/"
    if vendor == "microsoft":
        groups["v"] = r"@@?[\w$#@]+"
    if vendor in _NESTED_COMMENTS:
        groups["nest"] = r"/\*"
    brackets = r"|\[" if vendor in _BRACKET else ""
    dollar = rf"|{_DOLLAR_TAG}" if vendor == "postgresql" else ""
    delimited = r"|[nN]?[qQ]'" if vendor == "oracle" else ""
    groups["bad"] = rf"['\"`]|/\*{brackets}{dollar}{delimited}"
    groups["o"] = r"%%|\S|\s"
    space = r"\s*" if vendor in {"oracle", "microsoft", "other"} else r"[ \t\r\n\f\v]*"
    body = "|".join(f"(?P<{name}>{pattern})" for name, pattern in groups.items())
    return re.compile(rf"{space}(?:{body}|(?P<end>\Z))", re.DOTALL)


_PATTERNS = {vendor: _compile(vendor, backslashes=vendor == "mysql") for vendor in _WORD}
# The same text under the other setting: NO_BACKSLASH_ESCAPES, standard_conforming_strings = off.
_OTHER_READING = {
    vendor: _compile(vendor, backslashes=vendor != "mysql") for vendor in ("mysql", "postgresql")
}


def lex(sql: str, vendor: str, *, other_reading: bool = False) -> list[Token] | None:
    """Cut a text into tokens.

    :param sql: one or more statements, as handed to a DB-API cursor (a literal percent sign may be doubled).
    :param vendor: Django's ``connection.vendor``; any unknown vendor is read by the rules of standard SQL.
    :param other_reading: read backslashes in plain literals as the database would not by default.
    :returns: the tokens, or ``None`` when a literal, comment or quoted name does not end.
    """
    patterns = _OTHER_READING if other_reading else _PATTERNS
    match = patterns.get(vendor, _PATTERNS["other"]).match
    tokens: list[Token] = []
    append = tokens.append
    position, code_comments = 0, 0
    while True:
        found = match(sql, position)
        if found is None or (kind := found.lastgroup) is None:
            return None
        position = found.end()
        text = found[kind]
        if kind == "w":
            # With a long s (U+017F) "set" is SET in upper case, and a name to the database.
            append(("w", text.upper() if text.isascii() else text, text))
        elif kind == "punctuation":
            append((text, text, text))
        elif kind == "end":
            return None if code_comments else tokens
        elif kind == "bad":
            return None
        elif kind == "nest":
            position = _comment_end(sql, position)
            if position < 0:
                return None
        elif kind == "open":
            code_comments += 1
        elif kind == "close" and code_comments:
            code_comments -= 1
        elif kind != "c":
            append(("o" if kind == "close" else kind, text, text))


def _comment_end(sql: str, position: int) -> int:
    depth = 1
    for found in _NESTING.finditer(sql, position):
        depth += 1 if found[0] == "/*" else -1
        if not depth:
            return found.end()
    return -1


def literal_text(text: str) -> str:
    """Give the content of a literal.

    :param text: the text of an ``s`` or ``d`` token, quotes and prefix included.
    :returns: the content; backslash escapes are undone only roughly.
    """
    if text[-1] == "$":
        tag = text.index("$", 1) + 1
        return text[tag:-tag]
    quote = text[-1]
    start = text.index(quote) + 1
    content = text[start:-1]
    if text[0] in "qQ" or text[:2] in {"nq", "nQ", "Nq", "NQ"}:
        return content[1:-1]
    if quote in content:
        content = content.replace(quote * 2, quote)
    return _BACKSLASH.sub(r"\1", content) if "\\" in content else content


def quoted_text(raw: str) -> str:
    """Give the last name of a quoted chain as the database stores it.

    :param raw: the text of an ``i`` or ``d`` token, such as ``"public"."T"``.
    :returns: the name, its case kept.
    """
    quote = "[" if raw[-1] == "]" else raw[-1]
    if quote == "[":
        return raw[raw.rindex("[") + 1 : -1]
    inner = raw[:-1].replace(quote * 2, "\0")
    return inner[inner.rindex(quote) + 1 :].replace("\0", quote)


def _unescape(found: re.Match[str]) -> str:
    code = found[1] or found[2]
    return chr(int(code, 16)) if code and int(code, 16) <= sys.maxunicode else "\\"


_NAME_BYTES = 63


def canonical_table(name: str) -> str:
    """Give the one spelling under which a table is known here, however it was written.

    Schemas and cases are merged on purpose: two tables that share a spelling refresh each other, which is
    only too coarse; two spellings of one table that did not meet would be a stale result.

    :param name: a table's name, bare, quoted in any style or dotted, or Django's ``schema"."table`` trick.
    :returns: the last dotted part, without quotes, case folded, and cut as PostgreSQL cuts a name.
    """
    if name.isidentifier():
        return _cut(name).casefold()
    if '&"' in name:
        name = _UNICODE_ESCAPE.sub(_unescape, name)
    parts = [part for part in _QUOTED_PART.split(name.strip().replace("%%", "%")) if part.strip()]
    return _cut(parts[-1].strip() if parts else name).casefold()


def _cut(name: str) -> str:
    """Return the bytes of a name that PostgreSQL keeps (manual, 4.1.1 Identifiers and Key Words)."""
    return name if len(name) * 4 <= _NAME_BYTES else name.encode()[:_NAME_BYTES].decode(errors="ignore")
