"""The demonstration, run as its user runs it: in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("pycountry")

DEMO = Path(__file__).resolve().parents[2] / "demo"

# The file is changed by a connection of which neither Django nor cachalot knows.
BEHIND_ITS_BACK = """
import os, sqlite3, sys
from contextlib import closing
import django
sys.path.insert(0, ".")
django.setup()
from django.conf import settings
from walking import run
from walking.writes import Write

def unseen(client, look):
    with closing(sqlite3.connect(settings.DATABASES["default"]["NAME"])) as other:
        other.execute("UPDATE atlas_currency SET name = 'Florin' WHERE code = 'EUR'")
        other.commit()

run.WRITES = (Write("a write behind its back", unseen),)
sys.exit(run.run())
"""


def run(tmp_path: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the folder of the demonstration, with a database folder of its own.

    :param environment: variables beside those of this process.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ATLAS_", "DJANGO_"))}
    kept |= {"ATLAS_VAR": str(tmp_path), "DJANGO_SETTINGS_MODULE": "atlas_site.settings", "ATLAS_QUICK": "1"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=DEMO,
        env={**kept, **environment},
        capture_output=True,
        encoding="utf-8",
        timeout=110,
        check=False,
    )


def test_walk_finds_every_page_equal_to_its_uncached_twin(tmp_path):
    """The walk ends well, says that all pages were equal, and the cache spared most queries."""
    done = run(tmp_path, "walk.py", PYTHONIOENCODING="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    lines = done.stdout.strip().splitlines()
    assert re.fullmatch(r"\d{3,} pages compared with their uncached twins: all equal\.", lines[-1])
    [total] = [line for line in lines if line.startswith("all pages; sums")]
    _visits, off, on = map(int, re.findall(r"\d+", total)[:3])
    assert on < off / 2


def test_walk_notices_a_write_that_nothing_announced(tmp_path):
    """A page that is stale makes the walk fail and is shown with the lines that differ."""
    done = run(tmp_path, "-c", BEHIND_ITS_BACK, ATLAS_DEBUG="0", ATLAS_DB="walk.sqlite3")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "/currencies/ differs from its uncached twin:" in done.stdout
    assert re.search(r"^-.*Florin", done.stdout, re.MULTILINE)
    assert re.search(r"twins: \d+ differ", done.stdout.strip().splitlines()[-1])


def test_walk_without_cachalot(tmp_path):
    """The site is an ordinary one: it does the same without cachalot, and no query is spared."""
    done = run(tmp_path, "walk.py", ATLAS_CACHALOT="0", PYTHONIOENCODING="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr
    [total] = [line for line in done.stdout.splitlines() if line.startswith("all pages; sums")]
    _visits, off, on = map(int, re.findall(r"\d+", total)[:3])
    assert on == off


@pytest.mark.parametrize("cachalot", ["0", "1"])
def test_prepare_twice(tmp_path, cachalot):
    """Preparing a prepared database changes nothing."""
    first, second = (run(tmp_path, "manage.py", "prepare", ATLAS_CACHALOT=cachalot) for _ in range(2))
    assert first.returncode == 0, first.stderr
    assert "249 countries" in first.stdout
    assert second.stdout == first.stdout


@pytest.mark.parametrize("cachalot", ["0", "1"])
def test_site_is_sound(tmp_path, cachalot):
    """No system check complains, and no migration is missing."""
    done = run(tmp_path, "manage.py", "check", "--fail-level", "INFO", ATLAS_CACHALOT=cachalot)
    assert done.returncode == 0, done.stderr
    done = run(tmp_path, "manage.py", "makemigrations", "--check", "--dry-run", ATLAS_CACHALOT=cachalot)
    assert done.returncode == 0, done.stdout
