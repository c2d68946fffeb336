"""Compares a run of Django's tests with cachalot to one without, and writes what only cachalot has caused."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

#: How a test may end in both runs without being looked at.
GOOD = ("passed", "expected failure", "skipped")


@dataclass
class Run:
    """What one process wrote.

    :param results: by id of the test, the line about it.
    :param counts: what the cache did; ``None`` if the process did not come to its end.
    """

    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    counts: dict[str, int] | None = None

    @classmethod
    def read(cls, path: Path) -> Run:
        """Read a file of results."""
        run = cls()
        for line in path.read_text().splitlines() if path.exists() else ():
            entry = json.loads(line)
            if "id" in entry:
                run.results[entry["id"]] = entry
            else:
                run.counts = entry["counts"]
        return run

    def labels_to_repeat(self) -> list[str]:
        """What did not pass, as Django's runner takes it: a class, where it was not even set up.

        Modules that cannot be imported are left out, for there is nothing to take.
        """
        bad = [test for test, entry in self.results.items() if entry["status"] != "passed"]
        bad = [test for test in bad if not test.startswith("unittest.")]
        return [re.sub(r"\w+ \((.+)\)", r"\1", test) for test in bad]

    def number(self, *statuses: str) -> int:
        """How many tests ended in one of these ways."""
        return sum(entry["status"] in statuses for entry in self.results.values())


@dataclass(frozen=True)
class Difference:
    """A test that ended otherwise with cachalot.

    :param test: its id.
    :param before: how it ended without cachalot.
    :param after: how it ended with it.
    :param detail: the traceback, or the reason for which it was skipped.
    """

    test: str
    before: str
    after: str
    detail: str

    @property
    def cause(self) -> str:
        """The line of the traceback that says what went wrong, as far as a line can."""
        lines = [line for line in self.detail.splitlines() if line and not line.startswith((" ", "\t"))]
        found = [line for line in lines if line.split(":")[0].rpartition(".")[2].endswith(_ENDINGS)]
        return (found or lines or [""])[-1]


_ENDINGS = ("Error", "Exception", "DoesNotExist", "Returned", "Warning", "Difference")


def differences(without: Run, with_cachalot: Run) -> list[Difference]:
    """The tests that end worse with cachalot than without, or do not run any more."""
    found = []
    for test in sorted(without.results.keys() | with_cachalot.results.keys()):
        before = without.results.get(test, {}).get("status", "not run")
        entry = with_cachalot.results.get(test, {"status": "not run", "detail": ""})
        after = entry["status"]
        if before == after or before not in {*GOOD, "not run"}:
            continue
        if after in GOOD and not (before == "passed" and after == "skipped"):
            continue
        found.append(Difference(test, before, after, entry["detail"]))
    return found


@dataclass
class Comparison:
    """Both runs of one Django on one database.

    :param title: which ones.
    :param without: the run without cachalot.
    :param with_cachalot: the run with it.
    :param exceptions: tests that may end otherwise, with the reason.
    """

    title: str
    without: Run
    with_cachalot: Run
    exceptions: Mapping[str, str]

    def found(self) -> list[Difference]:
        """The differences that are no exceptions."""
        return [
            one for one in differences(self.without, self.with_cachalot) if one.test not in self.exceptions
        ]

    def faults(self) -> list[str]:
        """What is wrong, each in a line; empty if nothing is."""
        faults = [f"{one.test}: {one.before}, now {one.after}: {one.cause}" for one in self.found()]
        if self.without.counts is None or self.with_cachalot.counts is None:
            faults.append("A run did not come to its end.")
            return faults
        counts = self.with_cachalot.counts
        faults += [f"There was not one of: {kind}." for kind in USED if not counts.get(kind)]
        if counts.get("audit differences"):
            faults.append(f"Audits found {counts['audit differences']} differences.")
        return faults

    def text(self) -> str:
        """The report."""
        accepted = [
            one for one in differences(self.without, self.with_cachalot) if one.test in self.exceptions
        ]
        counts = self.with_cachalot.counts or {}
        lines = [
            self.title,
            "",
            _line("without cachalot", self.without),
            _line("with cachalot", self.with_cachalot),
            "",
            "The cache:",
            *(f"{number:9d} {name}" for name, number in sorted(counts.items())),
            "",
            f"{len(self.found())} tests end otherwise because of cachalot.",
            *(f"    {fault}" for fault in self.faults()),
            "",
            f"{len(accepted)} accepted exceptions.",
            *(f"    {one.test}: {self.exceptions[one.test]}" for one in accepted),
            "",
            f"{len(self.both_fail())} tests fail with and without cachalot.",
            *(f"    {test}" for test in self.both_fail()),
        ]
        return "\n".join(lines) + "\n"

    def both_fail(self) -> list[str]:
        """Tests that fail here anyway."""
        bad = [test for test, entry in self.without.results.items() if entry["status"] not in GOOD]
        return sorted(bad)


#: A run in which one of these never happened proves nothing.
USED = ("shared hits", "own hits", "audited hits")


def _line(name: str, run: Run) -> str:
    failed = run.number("failed", "error", "unexpected success")
    return f"{name}: {run.number('passed')} passed, {failed} failed, {run.number('skipped')} skipped"
