"""Django's test runner, with a line of JSON per test and, at the end, one with what the cache did."""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import unittest
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.test.runner import DiscoverRunner

if TYPE_CHECKING:
    from collections.abc import Mapping

#: A test that takes longer has locked itself out; the process prints where it stands and ends.
SECONDS_PER_TEST = 600
#: From good to bad; a test with subtests is as bad as its worst.
STATUSES = ("passed", "expected failure", "skipped", "unexpected success", "failed", "error")

#: What events are called that are neither about a read nor about the state of the cache.
NAMES = {"WriteEvent": "invalidations", "AuditEvent": "audit differences"}

#: What the cache does, counted from the start of the process.
counts: Counter[str] = Counter()


class Result(unittest.TextTestResult):
    """Writes down how each test ended."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._output = Path(os.environ["DJANGO_SUITE_RESULTS"]).open("a")  # noqa: SIM115 - open for the whole run
        self._running: unittest.TestCase | None = None
        self._begin()

    def _begin(self, test: unittest.TestCase | None = None) -> None:
        self._running, self._status, self._detail = test, STATUSES[0], ""

    def startTest(self, test: unittest.TestCase) -> None:  # noqa: N802 - unittest's name
        """Begin with a test that has not failed yet."""
        super().startTest(test)
        self._begin(test)
        # sys.stderr is a buffer while a test runs.
        faulthandler.dump_traceback_later(SECONDS_PER_TEST, exit=True, file=sys.__stderr__)

    def stopTest(self, test: unittest.TestCase) -> None:  # noqa: N802 - unittest's name
        """Write how the test ended."""
        faulthandler.cancel_dump_traceback_later()
        self._write(test.id())
        self._begin()
        super().stopTest(test)

    def _write(self, name: str) -> None:
        self._write_line({"id": name, "status": self._status, "detail": self._detail})

    def finish(self, line: Mapping[str, Any]) -> None:
        """Write the last line."""
        self._write_line(line)
        self._output.close()

    def _write_line(self, line: Mapping[str, Any]) -> None:
        self._output.write(json.dumps(line) + "\n")
        # At once: the process may end at any test.
        self._output.flush()

    def _note(self, test: unittest.TestCase, status: str, detail: str = "") -> None:
        if STATUSES.index(status) > STATUSES.index(self._status):
            self._status, self._detail = status, detail
        if self._running is None:
            # setUpClass and its like: no test was started.
            self._write(test.id())
            self._begin()

    def addError(self, test: Any, err: Any) -> None:  # noqa: N802 - unittest's name
        """Note an error; of the setup of a class, too."""
        super().addError(test, err)
        self._note(test, "error", self.errors[-1][1])

    def addFailure(self, test: Any, err: Any) -> None:  # noqa: N802 - unittest's name
        """Note a failure."""
        super().addFailure(test, err)
        self._note(test, "failed", self.failures[-1][1])

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:  # noqa: N802 - unittest's name
        """Note what a subtest has failed with."""
        super().addSubTest(test, subtest, err)
        if err is not None:
            if issubclass(err[0], test.failureException):
                self._note(test, "failed", self.failures[-1][1])
            else:
                self._note(test, "error", self.errors[-1][1])

    def addSkip(self, test: Any, reason: str) -> None:  # noqa: N802 - unittest's name
        """Note why a test was skipped."""
        super().addSkip(test, reason)
        self._note(test, "skipped", reason)

    def addExpectedFailure(self, test: Any, err: Any) -> None:  # noqa: N802 - unittest's name
        """Note a failure that Django expects."""
        super().addExpectedFailure(test, err)
        self._note(test, "expected failure")

    def addUnexpectedSuccess(self, test: Any) -> None:  # noqa: N802 - unittest's name
        """Note a success that Django does not expect."""
        super().addUnexpectedSuccess(test)
        self._note(test, "unexpected success")


class Runner(DiscoverRunner):
    """Django's runner, which records; with cachalot installed it lets hits count as queries."""

    def get_resultclass(self) -> type[unittest.TestResult]:
        """Return the class of results."""
        return Result

    def run_suite(self, suite: Any, **kwargs: Any) -> Any:
        """Run the tests, and write what the cache did."""
        cached = apps.is_installed("cachalot")
        if cached:
            watch_cache()
        result = super().run_suite(suite, **kwargs)
        result.finish({"counts": dict(counts)})
        return result


def watch_cache() -> None:
    """Count hits, by kind, and let them count as queries."""
    from cachalot.core.decisions import Outcome
    from cachalot.observe.events import Event, ReadEvent, subscribe
    from tests.django_suite import counting

    def count(event: Event) -> None:
        if not isinstance(event, ReadEvent):
            counts[NAMES.get(type(event).__name__) or f"cache {event.kind}: {event.detail}"] += 1
            return
        counts["audited hits"] += event.audited
        decision = event.decision
        if decision.outcome is Outcome.HIT:
            kind = "own hits" if decision.detail else "shared hits"
            counts[kind + " when asked again" * counting.again.get()] += 1
        elif not counting.again.get():
            counts[f"{decision.outcome.value}: {decision.reason.name.lower()}"] += 1

    subscribe(count)
    counting.install()
