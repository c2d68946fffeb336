"""The panel of django-debug-toolbar: what became of each read of a request.

It only observes: it collects the events of the request, and changes neither a setting nor anything else. What
it shows is plain data that every store of the toolbar can keep.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from datetime import timezone as datetime_timezone
from time import monotonic, time
from typing import TYPE_CHECKING, Any, Final

from debug_toolbar.panels import Panel
from django.apps import apps
from django.db import DEFAULT_DB_ALIAS, connections
from django.utils.timezone import localtime

from cachalot import api
from cachalot.conf import current
from cachalot.core.decisions import Decision, Outcome
from cachalot.observe.events import AuditEvent, CacheEvent, Event, ReadEvent, WriteEvent, record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from django.db.models import Model
    from django.http import HttpRequest, HttpResponse

# Bounds of what is shown, so that a page with ten thousand reads can still be looked at.
_MAX_ROWS: Final = 200
_MAX_SQL: Final = 4000
# Asking for the last invalidation of a model may be a round trip; a page is not held up longer than this.
_SECONDS_FOR_INVALIDATIONS: Final = 0.1

_TITLES: Final = {
    Outcome.HIT: "Hits: answered from the cache",
    Outcome.MISS: "Misses: run, and stored if possible",
    Outcome.BYPASS: "Bypasses: not left to the cache",
}


class CachalotPanel(Panel):
    """Hits, misses and bypasses of a request with their reasons, and when each model was last invalidated.

    Add ``"cachalot.panels.CachalotPanel"`` to ``DEBUG_TOOLBAR_PANELS``.
    """

    is_async = True
    title = "Cachalot"
    nav_title = "Cachalot"
    template = "cachalot/panel.html"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Make a panel that has seen nothing yet."""
        super().__init__(*args, **kwargs)
        self._events: list[Event] = []
        self._recording: ExitStack | None = None

    @property
    def nav_subtitle(self) -> str:
        """Return the numbers in one line."""
        stats: dict[str, Any] = self.get_stats()  # type: ignore[no-untyped-call] # the toolbar has no types there
        counts = stats.get("counts", {})
        shown = [outcome for outcome in Outcome if outcome is not Outcome.BYPASS or counts.get(outcome.value)]
        return ", ".join(_counted(counts.get(outcome.value, 0), outcome) for outcome in shown)

    def enable_instrumentation(self) -> None:
        """Begin to collect the events of this request."""
        if self._recording is None:
            self._recording = ExitStack()
            self._events = self._recording.enter_context(record())

    def disable_instrumentation(self) -> None:
        """End the collection; what was collected stays."""
        if self._recording is not None:
            self._recording.close()
            self._recording = None

    def generate_stats(self, request: HttpRequest, response: HttpResponse) -> None:  # noqa: ARG002 - the toolbar's
        """Turn what was collected into plain data."""
        reads = [event for event in self._events if isinstance(event, ReadEvent)]
        writes = [event for event in self._events if isinstance(event, WriteEvent)]
        self.record_stats(  # type: ignore[no-untyped-call] # the toolbar has no types there
            {
                "enabled": current().enabled,
                "counts": Counter(event.decision.outcome.value for event in reads),
                "milliseconds": sum(event.seconds for event in reads) * 1000,
                "saved": sum(event.saved for event in reads) * 1000,
                "sections": [_section(outcome, reads) for outcome in Outcome],
                "writes": [_write_row(event) for event in writes],
                "troubles": [
                    {"kind": event.kind, "detail": event.detail}
                    for event in self._events
                    if isinstance(event, CacheEvent)
                ],
                "audited": sum(event.audited for event in reads),
                "audits": [_audit_row(event) for event in self._events if isinstance(event, AuditEvent)],
                "invalidations": list(_invalidations(_tables_of(reads, writes))),
            }
        )


def _counted(number: int, outcome: Outcome) -> str:
    plural = "es" if outcome.value.endswith("s") else "s"
    return f"{number} {outcome.value}{'' if number == 1 else plural}"


# ------------------------------------------------------------------------------------------------------------
# Reads and writes
# ------------------------------------------------------------------------------------------------------------


def _section(outcome: Outcome, reads: Iterable[ReadEvent]) -> dict[str, Any]:
    """Return the reads of one outcome, those of equal text and reason in one row."""
    groups: dict[tuple[Decision, str, str], list[ReadEvent]] = {}
    for event in reads:
        if event.decision.outcome is outcome:
            groups.setdefault((event.decision, event.alias, event.sql), []).append(event)
    rows = [_read_row(group) for group in groups.values()]
    return {
        "outcome": outcome.value,
        "title": _TITLES[outcome],
        "rows": rows[:_MAX_ROWS],
        "more": max(0, len(rows) - _MAX_ROWS),
    }


def _read_row(group: list[ReadEvent]) -> dict[str, Any]:
    first = group[0]
    decision = first.decision
    sql = first.sql if len(first.sql) <= _MAX_SQL else f"{first.sql[:_MAX_SQL]} …"
    return {
        "times": len(group),
        "reason": decision.reason.value if decision.reason else "",
        "detail": decision.detail,
        "alias": first.alias,
        "sql": sql,
        "tables": sorted(frozenset[str]().union(*(event.tables for event in group))),
        "milliseconds": sum(event.seconds for event in group) * 1000,
        "saved": sum(event.saved for event in group) * 1000,
    }


def _write_row(event: WriteEvent) -> dict[str, Any]:
    return {
        "alias": event.alias,
        "tables": sorted(event.tables),
        "everything": event.everything,
        "source": event.source,
    }


def _audit_row(event: AuditEvent) -> dict[str, Any]:
    return {
        "alias": event.alias,
        "sql": event.sql[:_MAX_SQL],
        "tables": sorted(event.tables),
        "difference": event.difference,
    }


def _tables_of(reads: Iterable[ReadEvent], writes: Iterable[WriteEvent]) -> Mapping[str, set[str]]:
    """Return the tables that the request touched, by alias."""
    events: list[ReadEvent | WriteEvent] = [*reads, *writes]
    tables: dict[str, set[str]] = {event.alias: set() for event in events} or {DEFAULT_DB_ALIAS: set()}
    for event in events:
        tables[event.alias] |= event.tables
    return tables


# ------------------------------------------------------------------------------------------------------------
# The last invalidation of each model
# ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Question:
    alias: str
    model: type[Model]
    touched: bool


def _questions(touched: Mapping[str, set[str]]) -> list[_Question]:
    """Return which models to ask for, those of the request first."""
    models = {model._meta.db_table: model for model in apps.get_models(include_auto_created=True)}
    questions = [
        _Question(alias, model, table in tables)
        for alias, tables in sorted(touched.items())
        if alias in connections.settings  # A copy of a connection may have a name of its own.
        for table, model in models.items()
    ]
    return sorted(questions, key=lambda question: not question.touched)


def _invalidations(touched: Mapping[str, set[str]]) -> Iterator[dict[str, Any]]:
    """Return a row for each model of the request and for each other one that was ever invalidated."""
    now, give_up = time(), monotonic() + _SECONDS_FOR_INVALIDATIONS
    for question in _questions(touched):
        if not question.touched and monotonic() > give_up:
            return
        options = question.model._meta
        when = api.get_last_invalidation(options.db_table, db_alias=question.alias)
        if when or question.touched:
            yield {
                "alias": question.alias,
                "app": options.app_label,
                "model": options.object_name,
                "table": options.db_table,
                "touched": question.touched,
                "when": _moment(when) if when else "",
                "seconds": max(0.0, now - when) if when else None,
            }


def _moment(when: float) -> str:
    moment = localtime(datetime.fromtimestamp(when, tz=datetime_timezone.utc))
    return f"{moment:%Y-%m-%d %H:%M:%S}"
