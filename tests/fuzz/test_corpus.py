"""The inputs that the fuzzers have found, without a fuzzer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz import fuzz_entry, fuzz_sql

CORPUS = Path(__file__).parent / "corpus"
SQL = sorted((CORPUS / "sql").iterdir())
ENTRIES = sorted((CORPUS / "entry").iterdir())


def name(path: Path) -> str:
    """The name of an input is all that is shown of it."""
    return path.name[:12]


@pytest.mark.parametrize("path", SQL, ids=name)
def test_sql_text(path: Path) -> None:
    """Everything that is promised about any SQL text holds for this one."""
    fuzz_sql.check(path.read_bytes())


@pytest.mark.parametrize("vendor", fuzz_sql.VENDORS.values())
@pytest.mark.parametrize("text", ["%(", "q'[", "$a$", "WITH a(x "])
def test_beginning_that_is_repeated(text: str, vendor: str) -> None:
    """What begins ten thousand times and never ends takes no longer than its length."""
    fuzz_sql.check_long(text, vendor)


@pytest.mark.parametrize("path", ENTRIES, ids=name)
def test_entry(path: Path) -> None:
    """Everything that is promised about any bytes in a cache holds for these."""
    fuzz_entry.check(path.read_bytes())
