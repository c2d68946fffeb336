"""What it costs to check the seal of an entry before its payload is believed.

    python benchmarks/authentication.py

Prints, per size of the payload, the median and the best time in nanoseconds of the processor to open an
entry, the median to open one without looking at its seal, and the difference of the medians.
"""

from __future__ import annotations

import statistics
import time

from cachalot.core.envelope import _HEAD, _PAYLOAD_AT, Entry, derive_secret, open_sealed, seal

KEY = b"k" * 16
SECRET = derive_secret("for the benchmark only")
SIZES = (0, 100, 1_000, 10_000, 100_000)
ROUNDS, CALLS = 200, 200


def opened_unchecked(data: bytes) -> Entry:
    """The same entry, taken apart without its seal being looked at."""
    _, _, stamp, saved = _HEAD.unpack(data[: _HEAD.size])
    return Entry(stamp, saved, data[_PAYLOAD_AT:])


def measured(call, *arguments) -> tuple[float, float]:
    """Nanoseconds of one call: the median and the least over rounds of many."""
    rounds = []
    for _ in range(ROUNDS):
        started = time.thread_time_ns()
        for _ in range(CALLS):
            call(*arguments)
        rounds.append((time.thread_time_ns() - started) / CALLS)
    return statistics.median(rounds), min(rounds)


def main() -> None:
    print(f"{'bytes':>8} {'opened':>10} {'at best':>10} {'unchecked':>10} {'the seal':>10}")
    for size in SIZES:
        data = seal(KEY, SECRET, Entry(b"s" * 16, 1, b"x" * size))
        (opened, best), (unchecked, _) = (
            measured(open_sealed, KEY, SECRET, data),
            measured(opened_unchecked, data),
        )
        print(f"{size:8} {opened:10.0f} {best:10.0f} {unchecked:10.0f} {opened - unchecked:10.0f}")


if __name__ == "__main__":
    main()
