"""Where people see what audits found: settings, counters, the panel, the helpers for tests."""

from __future__ import annotations

import pytest
from django.test import override_settings

from cachalot import api, testing
from cachalot.conf import BY_NAME, Config, current
from cachalot.core.decisions import Decision, Outcome, Reason
from cachalot.observe.events import AuditEvent, ReadEvent, emit
from cachalot.orm import auditing

SELECT = 'SELECT "auth_group"."id" FROM "auth_group"'
FOUND = AuditEvent(
    "default", SELECT, frozenset({"auth_group"}), ("*", "any(auth_group)"), "1 of 2 rows differ"
)


def test_nothing_is_audited_unless_asked_for():
    """Both settings are off by default."""
    assert (Config().audit_rate, Config().audit_raise) == (0.0, False)


@pytest.mark.parametrize("rate", [0, 0.0, 0.001, 1, 1.0])
def test_share_is_accepted(rate):
    """From nothing to everything."""
    with override_settings(CACHALOT_AUDIT_RATE=rate):
        assert current().audit_rate == float(rate)
        assert type(current().audit_rate) is float


@pytest.mark.parametrize("rate", [-0.1, 1.1, 5, "0.5", True, None, float("nan"), float("inf")])
def test_what_is_no_share_is_refused(rate):
    """A rate of 5 is not five percent: the check says what is right, and nothing is audited."""
    with override_settings(CACHALOT_AUDIT_RATE=rate):
        assert current().audit_rate == 0.0
    assert BY_NAME["CACHALOT_AUDIT_RATE"].fault(rate) == f"must be a number from 0.0 to 1.0, not {rate!r}"


def test_audits_are_counted():
    """``stats`` has how many hits were audited, and how many of them were wrong."""
    before = api.stats()
    emit(ReadEvent(Decision.hit(), "default", SELECT, frozenset(), 0.0, audited=True))
    emit(ReadEvent(Decision.hit(), "default", SELECT, frozenset(), 0.0))
    emit(FOUND)
    assert "audits" not in before
    assert api.stats()["audits"] == 1
    assert api.stats()["audit_failures"] == 1
    assert api.stats()["hits"] == 2


def test_error_is_that_of_a_failed_test():
    """Test runners show it as a failure; projects import it from where the helpers for tests are."""
    assert testing.AuditError is auditing.AuditError
    assert issubclass(testing.AuditError, AssertionError)


def test_found_difference_is_a_miss_in_words():
    """People can read why the database was believed."""
    decision = Decision.miss(Reason.AUDITED, "1 of 2 rows differ")
    assert decision.outcome is Outcome.MISS
    assert str(decision) == "miss: an audit found other rows in the database (1 of 2 rows differ)"
