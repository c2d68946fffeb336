"""What every test of a fault ends with: the cache says what the database says, and goes on working."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.faults.processes import eventually

if TYPE_CHECKING:
    from tests.faults.processes import Worker


def agreed(worker: Worker, *pks: int) -> list[int]:
    """What the database says, once it is sure that cached reads say the same, also when they repeat."""
    expected = [worker.call("truth", pk) for pk in pks]
    for _ in range(3):
        seen = [worker.call("look", pk) for pk in pks]
        assert [value for value, _decision in seen] == expected, f"the database says {expected}, {seen}"
    return expected


def hits_again(worker: Worker, pk: int) -> int:
    """The value of a register, once it comes from the cache; until then and after it must be the truth."""
    seen: list[str] = []

    def hit() -> bool:
        expected = worker.call("truth", pk)
        value, decision = worker.call("look", pk)
        seen.append(decision)
        assert value == expected, f"the database says {expected}, the cache {value} ({decision})"
        return decision.startswith("hit")

    eventually(hit, f"a hit; {seen[-3:]}")
    return agreed(worker, pk)[0]
