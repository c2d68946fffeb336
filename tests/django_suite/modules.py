"""Which of Django's test modules are run, and which of their tests may end otherwise with cachalot."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

#: Patterns for the folders below Django's tests/: all of the ORM, and what leans on it most.
PATTERNS: Sequence[str] = """
    basic queries aggregation annotations expressions* lookup ordering many_to_* m2m_* model_inheritance*
    bulk_create update delete* get_or_create transactions transaction_hooks select_for_update select_related
    prefetch_related defer distinct_on_fields extra_regress filtered_relation foreign_object
    generic_relations* model_fields db_functions dates datetimes raw_query custom_lookups null_queries
    proxy_models multiple_database composite_pk async backends fixtures admin_views admin_changelist
    auth_tests sessions_tests contenttypes_tests postgres_tests
""".split()

#: Tests that may end otherwise because they look at how Django does it, not at what comes of it. The key is
#: the test's id, the value says in one sentence what is different by nature.
EXCEPTIONS: Mapping[str, str] = {
    "backends.base.test_base.ExecuteWrapperTests.test_wrapper_connection_specific": (
        "It demands that a connection has no execute wrapper but the test's own, and cachalot sees "
        "statements through one."
    ),
}


def found(tests: Path, patterns: Sequence[str] = PATTERNS) -> list[str]:
    """The modules that a Django has, by name.

    :param tests: its folder of tests.
    :raises LookupError: a pattern fits none of them.
    """
    present = sorted(path.parent.name for path in tests.glob("*/__init__.py"))
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in present):
            raise LookupError(f"no module of Django's tests is called {pattern}")
    return [name for name in present if any(fnmatchcase(name, pattern) for pattern in patterns)]
