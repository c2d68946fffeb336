"""The reference pages say what the code says."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

from cachalot import checks
from cachalot.conf import SETTINGS

DOCS = Path(__file__).parents[2] / "docs"


def test_settings_page_lists_every_setting_with_its_default():
    """A reader finds each setting once, with the default that the code has."""
    text = (DOCS / "settings.md").read_text()
    rows = re.findall(r"^\| `(CACHALOT_\w+)`(?: (†))? \| `(.+?)` \|", text, re.MULTILINE)
    listed = {name: (ast.literal_eval(default), bool(dagger)) for name, dagger, default in rows}
    assert len(rows) == len(listed)
    assert listed == {one.name: (one.default, one.vital) for one in SETTINGS}


def test_checks_page_lists_every_check():
    """A reader finds each id that a check can report, and no other."""
    listed = re.findall(
        r"^\| <a id=\"\w+\"></a>`(cachalot\.\w+)` \|", (DOCS / "checks.md").read_text(), re.MULTILINE
    )
    assert listed == sorted(set(re.findall(r'"(cachalot\.[EIW]\d{3})"', inspect.getsource(checks))))


def test_readme_lists_every_setting():
    """Who reads only the README sees every setting, its default and what it does."""
    text = (DOCS.parent / "README.md").read_text()
    rows = [f"| `{one.name}` | `{one.default!r}` | {one.doc} |" for one in SETTINGS]
    assert [row for row in rows if row not in text] == []
