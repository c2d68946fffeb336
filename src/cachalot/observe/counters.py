"""Counts of what happened in this process, for ``cachalot.api.stats`` and for metrics."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

from cachalot.observe.events import AuditEvent, Event, ReadEvent, WriteEvent, subscribe

_lock = threading.Lock()
_outcomes: Counter[str] = Counter()
_reasons: Counter[str] = Counter()
_others: Counter[str] = Counter()


def count(event: Event) -> None:
    """Count one event."""
    with _lock:
        if isinstance(event, ReadEvent):
            _outcomes[event.decision.outcome.value] += 1
            if event.decision.reason is not None:
                _reasons[event.decision.reason.name.lower()] += 1
            if event.audited:
                _others["audits"] += 1
        elif isinstance(event, WriteEvent):
            _others["invalidations"] += 1
        elif isinstance(event, AuditEvent):
            _others["audit_failures"] += 1
        else:
            _others[f"cache_{event.kind}"] += event.number


def snapshot() -> dict[str, Any]:
    """Return the counts so far."""
    with _lock:
        return {
            "hits": _outcomes["hit"],
            "misses": _outcomes["miss"],
            "bypasses": _outcomes["bypass"],
            "reasons": dict(_reasons),
            **_others,
        }


def reset() -> None:
    """Count from zero again. For tests."""
    with _lock:
        for counter in (_outcomes, _reasons, _others):
            counter.clear()


def start() -> None:
    """Begin to count. Doing it twice does no harm."""
    subscribe(count)
