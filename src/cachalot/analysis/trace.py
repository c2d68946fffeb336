"""What a compiler emitted while it compiled one statement.

The compiler itself is the tracer: every table and join of a statement, of its subqueries and of the parts of
a union goes through ``compiler.compile(node)``, so what is recorded is what the SQL contains, not what a walk
over the query would guess. The statement's text is the second witness (see ``reads``), for what reaches it
without ``compile``.
"""

from __future__ import annotations

from typing import Any

from django.db.models import Func
from django.db.models.expressions import RawSQL

from cachalot.analysis.rawsql import canonical_table


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

    def visit(self, node: Any) -> None:
        """Record a node that is being compiled."""
        name = getattr(node, "table_name", None)
        if isinstance(name, str) and name not in self._names:
            self._names.add(name)
            self.tables.add(canonical_table(name))
        elif isinstance(node, (Func, RawSQL)):
            self.expressions = True
