"""The tables and sentences that the walk prints."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from walking.pages import Page
    from walking.rendering import Rendering

WIDE = 44  # characters for a long path; what is longer is cut
LINE = "{:<{wide}}{:>7}{:>7}{:>6}{:>9}{:>8}{:>8}{:>7}{:>7}{:>8}"


@dataclass(frozen=True)
class Visit:
    """A page, and its uncached twin rendered right after or right before it.

    :param again: whether nothing was written since the last visit.
    """

    page: Page
    cached: Rendering
    plain: Rendering
    again: bool

    @property
    def equal(self) -> bool:
        """Whether the visitor sees the same."""
        return self.cached.text == self.plain.text


def heading(first: str) -> str:
    """Return the two lines above a table, and a rule."""
    top = LINE.format("", "", "queries", "", "time, ms", "on,", "on,", "", "", "", wide=WIDE)
    names = ("visits", "off", "on", "off", "first", "again", "gain", "hits", "equal")
    below = LINE.format(first, *names, wide=WIDE)
    return f"{top.rstrip()}\n{below}\n{'-' * len(below)}"


def row(first: str, visits: Sequence[Visit], *, total: bool = False) -> str:
    """Return a line of a table: sums of queries and hits, and times.

    :param total: whether the times are the sums; otherwise they are the medians.
    """
    off = [one.plain.seconds for one in visits]
    on = {again: [one.cached.seconds for one in visits if one.again is again] for again in (False, True)}
    equal = sum(one.equal for one in visits)
    return LINE.format(
        first if len(first) <= WIDE else f"{first[: WIDE - 1]}…",
        len(visits),
        sum(one.plain.queries for one in visits),
        sum(one.cached.queries for one in visits),
        *(milliseconds(some, total=total) for some in (off, on[False], on[True])),
        f"{sum(off) / sum(map(sum, on.values())):.1f}x",
        sum(one.cached.hits for one in visits),
        "yes" if equal == len(visits) else f"{equal}/{len(visits)}",
        wide=WIDE,
    )


def milliseconds(seconds: Sequence[float], *, total: bool) -> str:
    """Return the sum or the median, or a dash when there is nothing to add up."""
    if not seconds:
        return "-"
    return f"{1000 * (sum if total else median)(seconds):.1f}"


def by_page(visits: Iterable[Visit]) -> str:
    """Return the table with a line for each page, and the totals."""
    pages: dict[Page, list[Visit]] = {}
    for visit in visits:
        pages.setdefault(visit.page, []).append(visit)
    everything = [visit for some in pages.values() for visit in some]
    lines = [
        heading("page (*: as the superuser); median times"),
        *(row(str(page), some) for page, some in pages.items()),
    ]
    rule = "-" * len(lines[0].splitlines()[-1])
    return "\n".join([*lines, rule, row("all pages; sums", everything, total=True)])


def not_hits(visits: Iterable[Visit]) -> str:
    """Return why the other reads were not answered from the cache, one reason a line."""
    reasons: Counter[str] = Counter()
    for visit in visits:
        reasons += visit.cached.reasons
    return "\n".join(
        f"{number:>6}  {reason}"
        for reason, number in sorted(reasons.items(), key=lambda one: (-one[1], one[0]))
    )


def verdict(visits: Sequence[Visit]) -> str:
    """Return the last sentence."""
    differ = sum(not one.equal for one in visits)
    result = "all equal" if not differ else f"{differ} differ{'s' if differ == 1 else ''}"
    return f"{len(visits)} pages compared with their uncached twins: {result}."
