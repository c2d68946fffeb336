"""What a compiler emitted while it compiled one statement.

The compiler itself is the tracer: every table and join of a statement, of its subqueries and of the parts of
a union goes through ``compiler.compile(node)``, so what is recorded is what the SQL contains, not what a walk
over the query would guess. The statement's text is the second witness (see ``reads``), for what reaches it
without ``compile``.

A :class:`Trace` sees which tables there are, which costs next to nothing. A :class:`Recording` sees what each
condition was compiled to, too, and is made once per text: each parameter of a condition is replaced by a
:class:`Marked` one, so that its place in the finished statement is known however the parts were put together.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from django.core.exceptions import EmptyResultSet, FullResultSet
from django.db.models import Func
from django.db.models.expressions import Col, RawSQL
from django.db.models.lookups import Lookup
from django.db.models.sql.where import ExtraWhere

from cachalot.analysis.rawsql import canonical_table

if TYPE_CHECKING:
    from collections.abc import Callable


def qualified(connection: Any) -> re.Pattern[str]:
    """Return what a column with its table looks like in a text of Django."""
    quote = connection.ops.quote_name("x")[0]
    name = f"{quote}((?:[^{quote}]|{quote}{quote})+){quote}"
    return re.compile(rf"(?:{name}|(\w+))\.{name}")


class Trace:
    """What was seen while one statement was compiled.

    :ivar tables: canonical names of all tables and joins.
    :ivar expressions: whether it calls functions or has SQL written by hand.
    """

    __slots__ = ("_names", "expressions", "tables")

    def __init__(self) -> None:
        self._names: set[str] = set()
        self.tables: set[str] = set()
        self.expressions = False

    def compiled(self, _compiler: Any, node: Any, compile_node: Callable[[Any], Any]) -> Any:
        """Compile a node, and record it."""
        self.visit(node)
        return compile_node(node)

    def scope(self, _compiler: Any, compile_all: Callable[[], Any]) -> Any:
        """Compile one block of SELECT."""
        return compile_all()

    def visit(self, node: Any) -> None:
        """Record a node that is being compiled."""
        name = getattr(node, "table_name", None)
        if isinstance(name, str) and name not in self._names:
            self._names.add(name)
            self.tables.add(canonical_table(name))
        elif isinstance(node, (Func, RawSQL)):
            self.expressions = True


class Marked:
    """A parameter whose place in the statement is wanted; equal to others as the parameter itself is.

    :ivar value: the parameter.
    """

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Marked) and type(other.value) is type(self.value) and other.value == self.value
        )

    def __hash__(self) -> int:
        try:
            return hash(self.value)
        except (TypeError, ValueError):  # a list; bytes that may change
            return hash(type(self.value))


@dataclass
class Outcome:
    """What became of a condition.

    :param node: the condition.
    :param sql: its text; ``None`` if it is known to be false or true.
    :param params: its parameters.
    :param true: whether a condition without text is true.
    """

    node: Any
    sql: str | None
    params: tuple[Any, ...] = ()
    true: bool = False


@dataclass
class Join:
    """A table that is joined by equalities.

    :param parent: alias of the table to which it is joined.
    :param alias: its own alias.
    :param columns: pairs of columns that are equal, of the parent and of its own.
    :param outer: whether rows of the parent stay without a partner.
    :param conditions: further conditions of its ON clause.
    """

    parent: str
    alias: str
    columns: tuple[tuple[str, str], ...]
    outer: bool
    conditions: list[Any] = field(default_factory=list)


@dataclass
class Block:
    """One block of SELECT, or the one table of an UPDATE or DELETE.

    :param compiler: that compiles it.
    :param tables: names of tables, by alias.
    :param joins: joins, by alias of the table joined.
    :param joining: the join that is being compiled.
    :param outcomes: what became of conditions, by the identity of their nodes; ``None`` for one that was
        compiled twice, of which nobody can say where in the text it stands.
    """

    compiler: Any
    tables: dict[str, str] = field(default_factory=dict)
    joins: dict[str, Join] = field(default_factory=dict)
    joining: Join | None = None
    outcomes: dict[int, Outcome | None] = field(default_factory=dict)

    def note(self, outcome: Outcome) -> None:
        """Note what became of a condition; query sets that were made of one share the nodes of it."""
        key = id(outcome.node)
        self.outcomes[key] = None if key in self.outcomes else outcome


class Recording(Trace):
    """A trace that also records what each condition was compiled to.

    :param marking: whether parameters of conditions are replaced by :class:`Marked` ones.
    :ivar blocks: the blocks of the statement, in the order in which they were begun.
    :ivar used: columns that are used, as pairs of alias and column.
    :ivar opaque: whether there is SQL written by hand, of which nothing is known.
    """

    __slots__ = ("_marking", "_open", "blocks", "opaque", "used")

    def __init__(self, *, marking: bool) -> None:
        super().__init__()
        self._marking = marking
        self._open: list[Block] = []
        self.blocks: list[Block] = []
        self.used: set[tuple[str, str]] = set()
        self.opaque = False

    def scope(self, compiler: Any, compile_all: Callable[[], Any]) -> Any:
        """Compile one block of SELECT, and record what it consists of."""
        block = Block(compiler)
        self.blocks.append(block)
        self._open.append(block)
        try:
            return compile_all()
        finally:
            self._open.pop()

    def compiled(self, compiler: Any, node: Any, compile_node: Callable[[Any], Any]) -> Any:
        """Compile a node, and record what became of it."""
        self.visit(node)
        block = self._open[-1] if self._open else None
        joining = None if block is None else block.joining
        if block is not None:
            self._enter(compiler, node, block)
        try:
            sql, params = compile_node(node)
        except (EmptyResultSet, FullResultSet) as known:
            if block is not None:
                block.note(Outcome(node, None, true=isinstance(known, FullResultSet)))
            raise
        finally:
            if block is not None:
                block.joining = joining
        if self._marking and isinstance(node, Lookup):
            params = [one if isinstance(one, Marked) else Marked(one) for one in params]
        if block is not None:
            block.note(Outcome(node, sql, tuple(params)))
        return sql, params

    def _enter(self, compiler: Any, node: Any, block: Block) -> None:
        """Note a table, a column or a condition."""
        if isinstance(node, Col):
            self.used.add((node.alias, str(node.target.column)))
        elif isinstance(node, (RawSQL, ExtraWhere)):
            self.opaque |= not self._names_a_column(compiler, node)
        elif hasattr(node, "connector") and block.joining is not None:
            # Only the outermost condition: what is inside it may be one side of an OR.
            block.joining.conditions.append(node)
            block.joining = None
        name, alias = getattr(node, "table_name", None), getattr(node, "table_alias", None)
        if isinstance(name, str) and isinstance(alias, str) and block.compiler is compiler:
            block.tables[alias] = name
            if getattr(node, "join_cols", None) is not None:
                self._enter_join(node, block)

    def _names_a_column(self, compiler: Any, node: Any) -> bool:
        """Return whether SQL by hand is nothing but a column, as managers use it to ask whose a row is."""
        if not isinstance(node, RawSQL) or node.params:
            return False
        named = qualified(compiler.connection).fullmatch(node.sql.strip("() "))
        if named is None:
            return False
        self.used.add((named[1] or named[2], named[3]))
        return True

    def _enter_join(self, node: Any, block: Block) -> None:
        pairs = tuple((str(left), str(right)) for left, right in node.join_cols)
        join = Join(node.parent_alias, node.table_alias, pairs, outer=node.join_type != "INNER JOIN")
        block.joins[join.alias] = block.joining = join
        self.used.update((join.parent, left) for left, _right in pairs)
        self.used.update((join.alias, right) for _left, right in pairs)
