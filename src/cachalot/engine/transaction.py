"""One transaction of one connection: its writes, by savepoint, and the results that only it may see."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cachalot.core.tags import NOTHING, Effects, Tag

if TYPE_CHECKING:
    from cachalot.engine.context import Snapshot
    from cachalot.engine.isolation import Level

MAX_LOCAL_BYTES = 16 * 1024 * 1024
"""Own results that a transaction keeps at most; the oldest go first."""

OVERHEAD_BYTES = 1024
"""What an own result takes beside its rows."""


@dataclass
class LocalResult:
    """A result that only this transaction may see again.

    :param tags: what it depends on.
    :param stamp: the tokens of its tags before its query; ``None`` in a snapshot, where others cannot change
        it.
    :param payload: the encoded rows, so that each caller gets its own.
    """

    tags: tuple[Tag, ...]
    stamp: bytes | None
    payload: bytes


@dataclass
class Frame:
    """What was written since a savepoint.

    :param name: name of the savepoint; empty for the transaction itself.
    :param settings: settings of the session when it began; a rollback brings them back.
    :param effects: what the cache must hear of when it commits.
    :param untold: what was written but must not be told (``CACHALOT_INVALIDATE_RAW = False``).
    """

    name: str
    settings: Snapshot
    effects: Effects = NOTHING
    untold: Effects = NOTHING


@dataclass
class Transaction:
    """One transaction of one connection.

    :param frames: what was written, by savepoint; the first is the transaction itself.
    :param local: results of its own.
    :param clock: the clock of the database before the first statement; ``None`` if unknown, see
        ``clock_read``.
    :param clock_seconds: when the clock was read, by ``time.monotonic``.
    :param pinned: whether a statement has fixed the snapshot.
    :param serial: grows with every write and rollback.
    :param real: whether the database itself has begun it.
    :param began_with: name of the savepoint that began it, in SQLite.
    :param level: an isolation level set for it alone.
    """

    frames: list[Frame]
    local: dict[bytes, LocalResult] = field(default_factory=dict)
    clock: str | None = None
    clock_read: bool = False
    clock_seconds: float = 0.0
    pinned: bool = False
    serial: int = 0
    real: bool = True
    began_with: str | None = None
    level: Level | None = None
    _bytes: int = 0
    _by_table: dict[str, set[bytes]] = field(default_factory=lambda: defaultdict(set))

    def effects(self) -> Effects:
        """Return everything written so far and not rolled back that the cache must hear of."""
        total = NOTHING
        for frame in self.frames:
            total |= frame.effects
        return total

    def written(self) -> Effects:
        """Return everything written so far and not rolled back."""
        total = self.effects()
        for frame in self.frames:
            total |= frame.untold
        return total

    def note(self, effects: Effects, *, told: bool = True) -> None:
        """Note a write; own results that it touches are forgotten.

        :param told: whether the cache hears of it when the transaction commits.
        """
        frame = self.frames[-1]
        if told:
            frame.effects = (frame.effects | effects).bounded()
        else:
            frame.untold = (frame.untold | effects).bounded()
        self.forget(effects)

    def forget(self, effects: Effects) -> None:
        """Forget own results that ``effects`` touch, and those that are being read at this moment."""
        self.serial += 1
        if effects.everything:
            self._drop_all()
        for table in effects.tables:
            for key in list(self._by_table.get(table, ())):
                if effects.touches(self.local[key].tags):
                    self.drop(key)

    def keep(self, key: bytes, result: LocalResult) -> None:
        """Keep a result for this transaction, within bounds."""
        self.drop(key)
        self.local[key] = result
        self._bytes += len(result.payload) + OVERHEAD_BYTES
        for tag in result.tags:
            self._by_table[tag.table].add(key)
        while self._bytes > MAX_LOCAL_BYTES:
            self.drop(next(iter(self.local)))

    def drop(self, key: bytes) -> None:
        """Forget one own result, if there is such a one."""
        result = self.local.pop(key, None)
        if result is None:
            return
        self._bytes -= len(result.payload) + OVERHEAD_BYTES
        for tag in result.tags:
            self._by_table.get(tag.table, set()).discard(key)

    def _drop_all(self) -> None:
        self.local.clear()
        self._by_table.clear()
        self._bytes = 0

    def become_real(self) -> None:
        """Note that the database has begun it since it was last asked: its snapshot is not known."""
        self.real = self.clock_read = True
        self.clock = None
        self._drop_all()

    def savepoint(self, name: str, settings: Snapshot) -> None:
        """Note a savepoint."""
        self.frames.append(Frame(name, settings))

    def release(self, name: str) -> None:
        """Note that a savepoint was released: what was written since belongs to the level below."""
        index = self._index(name)
        if index is None:
            return
        below = self.frames[index - 1]
        for frame in self.frames[index:]:
            below.effects |= frame.effects
            below.untold |= frame.untold
        del self.frames[index:]

    def roll_back_to(self, name: str) -> Snapshot | None:
        """Note that what was written since a savepoint is gone. The savepoint itself stays.

        :returns: the settings of the session at the savepoint; ``None`` if there is no such savepoint.
        """
        index = self._index(name)
        if index is None:
            return None
        for frame in self.frames[index:]:
            self.forget(frame.effects | frame.untold)
        settings = self.frames[index].settings
        self.frames[index:] = [Frame(name, settings)]
        return settings

    def _index(self, name: str) -> int | None:
        """Return where the newest savepoint called ``name`` is."""
        for index in range(len(self.frames) - 1, 0, -1):
            if self.frames[index].name == name:
                return index
        return None
