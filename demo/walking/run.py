"""The walk: every page again and again, with writes in between, each time beside its uncached twin."""

from __future__ import annotations

import os
import platform
import random
import sqlite3
import sys
import time
from typing import TYPE_CHECKING

import django
from atlas.fill import sizes
from django.conf import settings
from django.core.management import call_command
from django.db import connection

from walking import pages, report
from walking.pages import PAGES, Page
from walking.rendering import difference, render
from walking.report import Visit
from walking.writes import WRITES, Write

if TYPE_CHECKING:
    from django.test import Client

INSIDE = tuple(Page(path) for path in ("/", "/countries/", "/countries/NO/", "/statistics/"))


def say(text: str = "") -> None:
    """Print a line at once, also into a pipe."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


class Walk:
    """One walk, and what was seen on it."""

    def __init__(self, *, quick: bool) -> None:
        """Log the superuser in.

        :param quick: whether every second page, and one round after each write, is enough.
        """
        self.quick = quick
        self.pages = PAGES[1::2] if quick else PAGES
        self.coin = random.Random(4217)  # the same each time
        self.visits: list[Visit] = []
        self.unseen: list[str] = []
        self.shown: dict[Page, str] = {}
        self.clients: dict[bool, Client] = {False: pages.visitor(), True: pages.editor()}

    def visit(self, page: Page, *, again: bool) -> Visit:
        """Open a page and its uncached twin; a coin says which comes first, for the times to be fair.

        :param again: whether nothing was written since the last visit.
        """
        order = self.coin.choice([(True, False), (False, True)])
        client = self.clients[page.editor]
        made = {cached: render(client, page.path, cached=cached) for cached in order}
        visit = Visit(page, made[True], made[False], again)
        self.visits.append(visit)
        return visit

    def round(self, title: str, *, again: bool = False) -> int:
        """Visit every page, print a line and return how many pages changed since the last round."""
        first = len(self.visits)
        changed = 0
        for page in self.pages:
            text = self.visit(page, again=again).cached.text
            changed += self.shown.get(page, text) != text
            self.shown[page] = text
        say(report.row(title, self.visits[first:], total=True) + f"{changed:>8}")
        return changed

    def look(self) -> None:
        """Visit some pages in the middle of a transaction."""
        for page in INSIDE:
            self.visit(page, again=False)

    def write(self, write: Write) -> None:
        """Do a write and see what the pages show afterwards."""
        write.do(self.clients[True], self.look)
        changed = self.round(f"after {write.title}")
        if bool(changed) != write.lasting:
            self.unseen.append(f"After {write.title}, {changed} pages looked different.")
        if not self.quick:
            self.round("  and again", again=True)

    def go(self) -> None:
        """Walk all the way."""
        for page in self.pages:  # what Django itself loads at first is nobody's gain
            render(self.clients[page.editor], page.path, cached=False)
        head = report.heading("round; sums").splitlines()
        say("\n".join([head[0], f"{head[1]} changed", f"{head[2]}--------"]))
        self.round("first visit")
        self.round("  and again", again=True)
        for write in WRITES:
            self.write(write)


def about() -> str:
    """Return what is walked through, on what."""
    rows = ", ".join(f"{number} {name}" for name, number in sizes().items())
    versions = (
        f"Django {django.__version__}, Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    )
    cache = settings.CACHES["default"]["BACKEND"].rpartition(".")[2]
    cachalot = f"cachalot over {cache}" if settings.WITH_CACHALOT else "cachalot left out (ATLAS_CACHALOT=0)"
    return (
        f"{rows}\n{versions}, {cachalot}\n"
        "off: inside cachalot_disabled(); on: as installed, first or again since a write. "
        "Each visit renders both."
    )


def prepare() -> None:
    """Make a new database, so that two walks do and count the same."""
    settings.VAR.mkdir(parents=True, exist_ok=True)
    connection.close()
    settings.DATABASES["default"]["NAME"].unlink(missing_ok=True)
    call_command("prepare", verbosity=0)


def faults(walk: Walk) -> list[str]:
    """Return what went wrong, a paragraph each."""
    found = [
        f"{one.page.path} differs from its uncached twin:\n{difference(one.cached.text, one.plain.text)}"
        for one in walk.visits
        if not one.equal
    ]
    found += [
        f"{one.page.path} was not found or failed."
        for one in walk.visits
        if not one.plain.text.startswith("200\n")
    ]
    found += walk.unseen
    if settings.WITH_CACHALOT and not any(one.cached.hits for one in walk.visits):
        found.append("Not one read was answered from the cache.")
    return found


def run() -> int:
    """Prepare, walk and report.

    :returns: 0 when all pages were equal and all writes were seen, else 1.
    """
    start = time.perf_counter()
    prepare()
    say(f"{about()}\n")
    walk = Walk(quick=os.environ.get("ATLAS_QUICK", "0") != "0")
    walk.go()
    say(f"\n{report.by_page(walk.visits)}\n")
    if reasons := report.not_hits(walk.visits):
        say(f"Reads that the cache did not answer, and why:\n{reasons}\n")
    say("SQLite runs inside this process. A database server also takes a round trip for each query.\n")
    wrong = faults(walk)
    for fault in wrong[:5]:
        say(f"{fault}\n")
    say(f"{time.perf_counter() - start:.0f} seconds.")
    say(report.verdict(walk.visits))
    return 1 if wrong else 0
