"""Which functions may stand in a cached read, and which in a raw read that changes nothing."""

from __future__ import annotations

import pytest

from cachalot.analysis.rawsql import analyse
from cachalot.analysis.volatility import is_time_word, may_write, unstable

VENDORS = ["postgresql", "mysql", "sqlite", "oracle", "microsoft", "other"]
CLOCKS = """
    now random_uuid uuid current_timestamp current_user sysdate nextval clock_timestamp version last_insert_id
    age date() unix_timestamp() strftime() my_function @x tablesample set_config
    pg_sleep ts_rewrite query_to_xml
""".split()


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize(
    "function", ["lower", "count", "coalesce", "round", "row_number", "substring", "st_area"]
)
def test_functions_every_database_has_are_stable(vendor, function):
    """What follows from its arguments may be cached on every database."""
    assert not unstable({function}, vendor)


@pytest.mark.parametrize(
    ("vendor", "functions"),
    [
        (
            "postgresql",
            "date_trunc extract to_tsvector similarity array_agg jsonb_build_object unnest geography",
        ),
        ("mysql", "group_concat json_extract date_format convert_tz if ifnull unix_timestamp truncate"),
        (
            "sqlite",
            "django_datetime_trunc django_format_dtdelta regexp json_extract strftime julianday group_concat",
        ),
        ("oracle", "to_char nvl decode numtodsinterval json_value sdo_relate"),
    ],
)
def test_functions_the_orm_emits_are_stable(vendor, functions):
    """The deterministic functions of each backend do not keep a read out of the cache."""
    assert not unstable(functions.split(), vendor)


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize("function", CLOCKS)
def test_clocks_sequences_and_the_unknown_are_unstable(vendor, function):
    """A result that can change while no table does, or that nobody knows, is not cached."""
    assert unstable({function, "lower"}, vendor) == {function}


def test_random_passes_only_when_allowed():
    """Random results are cached only by a project that asked for it."""
    assert unstable({"random", "rand"}, "sqlite") == {"random", "rand"}
    assert not unstable({"random", "rand"}, "sqlite", random_allowed=True)


def test_a_vouched_function_is_stable():
    """A project may answer for its own functions, in any case."""
    assert not unstable({"my_function"}, "postgresql", ["My_Function"])
    assert not may_write({"my_function"}, "postgresql", ["My_Function"])


@pytest.mark.parametrize(
    "function",
    """
    now random pg_sleep pg_advisory_lock pg_try_advisory_xact_lock version setval row_count uuid lower
    date() @x pg_get_indexdef tablesample
    """.split(),
)
def test_volatile_functions_that_write_nothing_may_be_called_raw(function):
    """A raw SELECT with a clock or a lock in it is still a read."""
    assert not may_write({function}, "postgresql")


def test_an_unknown_function_may_write():
    """A function nobody knows may have changed anything."""
    assert may_write({"my_function", "dblink_exec", "now"}, "postgresql") == {"my_function", "dblink_exec"}


@pytest.mark.parametrize(
    "value", ["now", " Now ", "TODAY", "tomorrow 04:05", "yesterday", "\tnow", "localtime"]
)
def test_words_for_the_clock_are_recognised(value):
    """Texts that a database reads as the current time are found in any case and with blanks."""
    assert is_time_word(value)


@pytest.mark.parametrize("value", ["", "nowhere", "2024-01-01", "know", "today_", "utc"])
def test_other_words_are_not_the_clock(value):
    """A word that only resembles one is an ordinary value."""
    assert not is_time_word(value)


def test_a_clock_inside_a_nested_query_is_found():
    """Depth does not hide a volatile function."""
    (statement,) = analyse(
        "SELECT * FROM t WHERE x IN (SELECT y FROM u WHERE z < lower(NOW()))", "postgresql"
    )
    assert unstable(statement.functions, "postgresql") == {"now"}
