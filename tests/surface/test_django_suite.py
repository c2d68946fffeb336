"""The rules by which Django's own tests are judged when they run with cachalot."""

from __future__ import annotations

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from cachalot.orm import reading
from cachalot.testing import watch
from tests.django_suite import counting
from tests.django_suite.comparing import Comparison, Run
from tests.django_suite.modules import found
from tests.testapp.models import Author


@pytest.fixture
def hits_count(monkeypatch):
    """Hits are entered in the log of queries."""
    monkeypatch.setattr(reading, "answer", counting.entering_hits(reading.answer))


@pytest.fixture
def asked_twice(monkeypatch, hits_count):
    """Every read is asked for a second time, which is answered with what the first has stored."""
    monkeypatch.setattr(reading, "answer", counting.asking_twice(reading.answer))


def read():
    """The same statement each time, with a parameter."""
    return list(Author.objects.filter(name="Ada").values_list("name", flat=True))


@pytest.mark.django_db(transaction=True)
class TestCounting:
    def test_hit_counts_as_the_query_it_stands_for(self, hits_count, django_assert_num_queries):
        """Queries run and hits together are the number that Django's test expects."""
        with django_assert_num_queries(2), watch() as seen:
            read()
            read()
        assert seen.hits == 1

    def test_hit_is_entered_with_the_text_that_was_not_run(self, hits_count):
        """A test that reads the text of the queries finds the same as without the cache."""
        with CaptureQueriesContext(connection) as captured:
            read()
            read()
        first, second = (query["sql"] for query in captured)
        assert first == second
        assert "'Ada'" in first

    def test_one_query_more_than_expected_is_not_accepted(self, hits_count, django_assert_num_queries):
        """A query that Django alone would not run fails the test, hits or no hits."""
        read()
        with pytest.raises(pytest.fail.Exception), django_assert_num_queries(0):
            read()
        with pytest.raises(pytest.fail.Exception), django_assert_num_queries(0):
            Author.objects.exists()

    def test_query_that_is_missing_without_a_hit_is_not_accepted(self, hits_count, django_assert_num_queries):
        """Only a hit may stand for a query."""
        with pytest.raises(pytest.fail.Exception), django_assert_num_queries(2):
            read()

    def test_hit_that_an_audit_has_run_counts_once(self, hits_count, django_assert_num_queries, settings):
        """A hit is one query of the test, whether it was run or not, and its savepoints do not count."""
        settings.CACHALOT_AUDIT_RATE = 1
        with transaction.atomic():
            read()
            with django_assert_num_queries(1), watch() as seen:
                read()
        assert [one.audited for one in seen.reads] == [True]

    def test_savepoint_of_the_test_counts_though_an_audit_follows(
        self, hits_count, django_assert_num_queries, settings
    ):
        """Only what the audit itself has sent is left out of the count."""
        settings.CACHALOT_AUDIT_RATE = 1
        with transaction.atomic():
            read()
            with django_assert_num_queries(3), transaction.atomic():
                read()

    def test_savepoint_around_an_audit_of_the_second_answer_does_not_count(
        self, asked_twice, django_assert_num_queries, settings
    ):
        """Asking twice and auditing together leave the count as it would be without the cache."""
        settings.CACHALOT_AUDIT_RATE = 1
        with transaction.atomic(), django_assert_num_queries(2):
            read()
            read()

    def test_log_that_is_full_takes_a_hit_like_any_other(self, hits_count):
        """The log drops its oldest entries, and what is new in it is still told apart."""
        read()
        with CaptureQueriesContext(connection):
            log = connection.queries_log
            log.extend({"sql": str(number)} for number in range(log.maxlen))
            read()
        assert "'Ada'" in log[-1]["sql"]

    def test_nothing_is_entered_while_nobody_reads_the_log(self, hits_count):
        """Outside of DEBUG and of a test that counts, the log stays as it is."""
        read()
        before = list(connection.queries_log)
        read()
        assert list(connection.queries_log) == before

    def test_read_asked_twice_is_answered_by_what_was_stored(self, asked_twice, django_assert_num_queries):
        """The rows come through the cache, and the query counts once."""
        Author.objects.create(name="Ada")
        with django_assert_num_queries(1), watch() as seen:
            assert read() == ["Ada"]
        assert seen.hits == 1

    def test_read_that_is_not_cached_runs_once_though_asked_twice(
        self, asked_twice, django_assert_num_queries
    ):
        """Asking a second time never reaches the database."""
        with django_assert_num_queries(1), watch() as seen:
            list(Author.objects.order_by("?"))
        assert seen.hits == 0


def a_run(used=1, differences=0, **statuses):
    """A run in which the cache was used."""
    results = {name: {"status": status, "detail": "ValueError: no"} for name, status in statuses.items()}
    counts = dict.fromkeys(("shared hits", "own hits", "audited hits"), used)
    return Run(results, {**counts, "audit differences": differences})


def faults(without, with_cachalot, exceptions=()):
    """What is wrong with two runs."""
    return Comparison("", without, with_cachalot, dict.fromkeys(exceptions, "by nature")).faults()


class TestComparing:
    def test_equal_runs_have_no_faults(self):
        """What fails anyway, and what is skipped anyway, is not caused by cachalot."""
        run = a_run(a="passed", b="failed", c="skipped", d="expected failure")
        assert faults(run, run) == []

    @pytest.mark.parametrize("after", ["failed", "error", "skipped", "unexpected success"])
    def test_test_that_passed_and_does_not_any_more_is_a_fault(self, after):
        """Whatever a test that passed without cachalot does but pass is its fault."""
        assert faults(a_run(a="passed"), a_run(a=after)) == [f"a: passed, now {after}: ValueError: no"]

    def test_test_that_was_not_reached_is_a_fault(self):
        """A test that has disappeared has not passed."""
        assert faults(a_run(a="passed"), a_run()) == ["a: passed, now not run: "]

    def test_class_that_cannot_be_set_up_is_a_fault(self):
        """The setup of a class is in the results only when it fails."""
        assert len(faults(a_run(a="passed"), a_run(a="passed", setUpClass="error"))) == 1

    def test_exception_is_accepted_and_its_reason_is_in_the_report(self):
        """A test in the table may end otherwise, and nobody has to guess why."""
        runs = a_run(a="passed"), a_run(a="failed")
        assert faults(*runs, exceptions=["a"]) == []
        assert "a: by nature" in Comparison("", *runs, {"a": "by nature"}).text()

    def test_what_did_not_pass_can_be_run_again(self):
        """A class that could not be set up is run again as a whole."""
        run = Run(
            {
                "a.B.c": {"status": "passed"},
                "a.B.d": {"status": "skipped"},
                "setUpClass (e.F)": {"status": "error"},
            }
        )
        assert run.labels_to_repeat() == ["a.B.d", "e.F"]

    def test_run_without_hits_proves_nothing(self):
        """The cache has to be used, by all and within a transaction, and its hits have to be audited."""
        assert len(faults(a_run(), a_run(used=0))) == 3

    def test_difference_that_no_test_has_noticed_is_a_fault(self):
        """A test that catches the error of an audit does not hide it."""
        assert len(faults(a_run(), a_run(differences=1))) == 1

    def test_run_that_did_not_end_is_a_fault(self):
        """What a process wrote before it died is not the whole."""
        assert faults(a_run(), Run()) == ["A run did not come to its end."]


class TestModules:
    def test_pattern_finds_its_modules(self, tmp_path):
        """A folder is a module if it is a package, and is found once."""
        for name in ("delete", "delete_regress", "update"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "__init__.py").touch()
        (tmp_path / "delete_data").mkdir()
        assert found(tmp_path, ["delete*", "delete"]) == ["delete", "delete_regress"]

    def test_pattern_that_finds_nothing_is_an_error(self, tmp_path):
        """A module that Django has renamed is not left out in silence."""
        with pytest.raises(LookupError):
            found(tmp_path, ["queries"])
