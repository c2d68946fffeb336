"""What the ORM is doing on a connection at this moment."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from cachalot.core.tags import NOTHING

if TYPE_CHECKING:
    from collections.abc import Callable
    from weakref import ref

    from cachalot.analysis.trace import Trace
    from cachalot.engine.alone import Alone


class Work(threading.local):
    """What is under way on a connection; a shared connection has one for each thread.

    :ivar expected: texts of statements of the ORM that the cursor will see.
    :ivar reading: how many reads of the ORM are under way, one inside the other.
    :ivar writing: how many writes of the ORM are under way, one inside the other.
    :ivar trace: of the statement that is being compiled.
    :ivar surprises: what the text of a write has shown that was not known before.
    :ivar row_writes: what runs a statement of the ORM and learns about its rows, by the text.
    :ivar alone: the transaction of the write under way, if it has one of its own.
    :ivar rewritten: the cursor of the driver that was last given more than Django has written.
    :ivar sending: sends the next statement that reaches a cursor, if that is one of the ORM.
    """

    def __init__(self) -> None:
        self.expected: frozenset[str] = frozenset()
        self.reading = 0
        self.writing = 0
        self.trace: Trace | None = None
        self.surprises = NOTHING
        self.row_writes: dict[str, Any] = {}
        self.alone: Alone | None = None
        self.rewritten: ref[Any] | None = None
        self.sending: Callable[[Callable[[Any, Any], Any], Any, tuple[Any, Any]], Any] | None = None
