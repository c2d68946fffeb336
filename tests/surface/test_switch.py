"""The switch: off in every process, on again without a stale row, and an error where it cannot be turned."""

from __future__ import annotations

from io import StringIO

import pytest
from django.conf import settings as django_settings
from django.contrib.auth.models import Group
from django.core.cache import caches
from django.core.cache.backends.base import InvalidCacheBackendError
from django.core.management import CommandError, call_command
from django.db import transaction
from django.test import override_settings

from cachalot import api, testing
from cachalot.core.decisions import Outcome, Reason
from cachalot.core.steps import GetMany, Lifetime
from cachalot.engine import switch
from cachalot.engine.caches import query_cache
from cachalot.engine.switch import KEY, PAUSE, Switch
from cachalot.stores.base import StoreAway, Tier
from cachalot.testing import watch

AWAY = {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": "redis://127.0.0.1:1/0"}
DUMMY = {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}


def cachalot(*arguments, **options):
    """What the command printed."""
    out = StringIO()
    call_command("cachalot", *arguments, stdout=out, **options)
    return out.getvalue().strip()


def facts():
    """What ``status`` prints, as a dictionary."""
    return dict(map(str.strip, line.split(":", 1)) for line in cachalot("status").splitlines())


def names():
    """A read."""
    return [group.name for group in Group.objects.order_by("pk")]


def outcomes():
    """What became of a read, and why."""
    with watch() as seen:
        names()
    return [(one.outcome, one.reason) for one in seen.decisions]


OFF = [(Outcome.BYPASS, Reason.SWITCHED_OFF)]
HIT = [(Outcome.HIT, None)]
#: Of tests that run before and after one another in any order.
TWICE = pytest.mark.parametrize("time", ["first", "again"])


class OtherProcess:
    """The switch as another process sees it, with a clock that goes when it is told to."""

    def __init__(self):
        self.seconds = 100.0
        self.asked = []
        self.away = False
        self.switch = Switch(self, now=lambda: self.seconds)

    def ask(self, step):
        """Carry out a step, as a guard does."""
        self.asked.append(step)
        if self.away:
            raise StoreAway("no route")
        return query_cache("default").guard.ask(step)


# Reads and writes.


@pytest.mark.django_db(transaction=True)
def test_reads_pass_the_cache_by_while_it_is_off():
    """Off: nothing is served and nothing stored. On: what was stored is served."""
    Group.objects.create(name="a")
    names()
    assert outcomes() == HIT
    assert cachalot("off") == "The cache 'default' is off."
    assert outcomes() == OFF
    assert api.explain(Group.objects.all()).decision.reason is Reason.SWITCHED_OFF
    with transaction.atomic():
        assert outcomes() == outcomes() == OFF
    assert cachalot("on") == "The cache 'default' is on."
    assert outcomes() == HIT


@pytest.mark.django_db(transaction=True)
def test_writes_go_on_to_invalidate():
    """What was written while the cache was off is not stale when it is on again."""
    group = Group.objects.create(name="a")
    names()
    api.switch_off()
    Group.objects.update(name="b")
    with transaction.atomic():
        Group.objects.create(name="c")
    api.switch_on()
    assert names() == ["b", "c"]
    assert outcomes() == HIT
    api.switch_off()
    group.delete()
    api.switch_on()
    assert names() == ["c"]


@pytest.mark.django_db(transaction=True)
def test_switch_does_not_ask_before_what_is_never_cached(monkeypatch):
    """A project that caches nothing does not speak with the cache about it."""
    monkeypatch.setattr(Switch, "is_off", lambda _self: pytest.fail("asked"))
    with override_settings(CACHALOT_ENABLED=False):
        names()
    with api.cachalot_disabled():
        names()


# Processes.


def test_other_processes_follow_within_a_second():
    """Each looks every half second, by a clock of its own, and once."""
    other = OtherProcess()
    assert not other.switch.is_off()
    api.switch_off()
    assert not other.switch.is_off()
    other.seconds += PAUSE * 0.99
    assert not other.switch.is_off()
    assert len(other.asked) == 1
    other.seconds += PAUSE * 0.02
    assert other.switch.is_off()
    assert other.switch.is_off()
    assert other.asked == [GetMany((KEY,))] * 2
    api.switch_on()
    other.seconds += PAUSE
    assert not other.switch.is_off()
    assert PAUSE <= 0.5


def test_what_was_seen_last_holds_while_the_cache_is_away():
    """An outage switches nothing on, and costs no more questions than an answer does."""
    other = OtherProcess()
    api.switch_off()
    assert other.switch.is_off()
    other.away = True
    for _ in range(3):
        other.seconds += PAUSE
        assert other.switch.is_off()
        assert other.switch.is_off()
    assert len(other.asked) == 4
    other.away = False
    api.switch_on()
    other.seconds += PAUSE
    assert not other.switch.is_off()


def test_one_thread_asks_for_all():
    """While one waits for the cache the others go on with what was seen last."""
    other = OtherProcess()
    inside = []

    def ask(step):
        inside.append(other.switch.is_off())
        return {KEY: "off"}

    other.ask = ask
    assert other.switch.is_off()
    assert inside == [False]


@pytest.mark.parametrize("value", [None, "on", "", b"off", 0, True, ["off"], "?"])
def test_only_one_value_is_off(value):
    """Whatever else stands under the key has not switched the cache off."""
    caches["default"].set(KEY, value)
    assert not OtherProcess().switch.is_off()


@TWICE
def test_state_does_not_leak_into_the_next_test(time):
    """A cleared cache and ``cachalot.testing.reset()`` have forgotten the switch."""
    assert api.is_switched_on()
    api.switch_off()
    assert not api.is_switched_on()


def test_reset_forgets_what_this_process_has_seen():
    """A test that clears its cache need not wait half a second."""
    api.switch_off()
    caches["default"].clear()
    testing.reset()
    assert not query_cache("default").switch.is_off()


def test_value_lives_as_long_as_tokens_do():
    """It must not expire in the middle of a night."""
    other = OtherProcess()
    other.switch.turn(off=True)
    assert [step.lifetime for step in other.asked] == [Lifetime.STATE]


# The command and the API.


def test_status_says_how_the_cache_is():
    """What one wants to know at night, of one cache."""
    backend = django_settings.CACHES["default"]["BACKEND"]
    assert facts() == {
        "cache": f"default ({backend})",
        "tier": f"{api.tier()}: {Tier[api.tier().upper()].value}",
        "switch": "on",
        "answers": "yes",
        "breaker": "closed",
        "CACHALOT_ENABLED": "True",
    }
    cachalot("off")
    with override_settings(CACHALOT_ENABLED=False):
        found = facts()
    assert (found["switch"], found["CACHALOT_ENABLED"]) == ("off", "False")


def test_another_cache_is_switched_alone():
    """-c names the cache; by default it is the one in use."""
    assert cachalot("off", "-c", "second") == "The cache 'second' is off."
    assert api.is_switched_on()
    assert not api.is_switched_on("second")
    with override_settings(CACHALOT_CACHE="second"):
        assert not api.is_switched_on()
        assert cachalot("on") == "The cache 'second' is on."
    assert api.is_switched_on("second")


def test_quiet_command_prints_nothing():
    """At verbosity 0 the command only works."""
    assert cachalot("off", verbosity=0) == ""
    assert not api.is_switched_on()


@pytest.mark.parametrize("action", ["off", "on", "status"])
def test_cache_that_does_not_answer_is_an_error(action, settings):
    """What was not switched is not reported as switched."""
    settings.CACHES = {"default": AWAY}
    with pytest.raises(CommandError, match="The cache 'default' does not answer"):
        cachalot(action)


def test_status_of_a_cache_that_does_not_answer_says_so(settings):
    """Before it fails it prints what it knows."""
    settings.CACHES = {"default": AWAY}
    out = StringIO()
    with pytest.raises(CommandError):
        call_command("cachalot", "status", stdout=out)
    said = dict(map(str.strip, line.split(":", 1)) for line in out.getvalue().splitlines())
    assert (said["switch"], said["answers"], said["breaker"]) == ("unknown", "no", "open")


def test_cache_that_swallows_errors_is_not_believed(settings, monkeypatch):
    """A client that returns nothing where there is no server has not answered."""
    settings.CACHES = {"default": {"BACKEND": "tests.surface.swallowing.SwallowingCache"}}
    with pytest.raises(CommandError, match="does not answer"):
        cachalot("status")
    with pytest.raises(CommandError, match="does not answer"):
        cachalot("off")


@pytest.mark.parametrize("action", ["off", "on", "status"])
def test_unknown_cache_is_an_error(action):
    """A misspelt alias switches nothing."""
    with pytest.raises(CommandError, match="'secnd' doesn't exist"):
        cachalot(action, "-c", "secnd")


def test_cache_that_holds_no_results_is_an_error(settings):
    """There is nothing to switch in a cache that keeps nothing."""
    settings.CACHES = {"default": DUMMY}
    with pytest.raises(CommandError, match="'default' cannot hold results"):
        cachalot("off")
    with pytest.raises(InvalidCacheBackendError):
        api.switch_off()


def test_api_raises_where_the_cache_does_not_answer(settings):
    """Who switches in code is told as well."""
    settings.CACHES = {"default": AWAY}
    for call in (api.switch_off, api.switch_on, api.is_switched_on):
        with pytest.raises(StoreAway):
            call()


def test_unknown_action_is_refused():
    """The command does nothing by guess."""
    with pytest.raises(CommandError, match="invalid choice: 'of'"):
        cachalot("of")


def test_pause_is_that_of_the_documentation():
    """Within a second, the documentation says."""
    assert switch.PAUSE <= 0.5
