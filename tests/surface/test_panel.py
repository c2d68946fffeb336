"""The panel of django-debug-toolbar: what it collects, keeps and shows, and that it changes nothing."""

from __future__ import annotations

import asyncio
import json
from importlib.metadata import version

import pytest
from django.conf import settings
from django.contrib.auth.models import Group
from django.http import HttpResponse
from django.test import AsyncClient, Client, RequestFactory, override_settings
from django.urls import include, path

from cachalot import api, conf
from cachalot.core.decisions import Decision, Reason
from cachalot.observe import events
from cachalot.observe.events import AuditEvent, CacheEvent, ReadEvent, WriteEvent, emit

pytest.importorskip("debug_toolbar")

SELECT = 'SELECT "auth_group"."id" FROM "auth_group" WHERE "auth_group"."id" < %s'
GROUPS = frozenset({"auth_group"})


def emit_some(number=3):
    """What a request might do: hits, a miss, a bypass and an invalidation."""
    for _ in range(number):
        emit(ReadEvent(Decision.hit(), "default", SELECT, GROUPS, seconds=0.001, saved=0.01))
    emit(ReadEvent(Decision.miss(Reason.CHANGED), "default", SELECT, GROUPS, seconds=0.02))
    emit(
        ReadEvent(
            Decision.bypass(Reason.VOLATILE, "now()"), "default", "SELECT now()", frozenset(), seconds=0.001
        )
    )
    emit(WriteEvent("default", GROUPS, everything=False, source="orm"))


def page(_request):
    """A page that reads."""
    emit_some()
    return HttpResponse("<html><body>page</body></html>")


def real_page(request):
    """A page that reads through the ORM, and before that writes if it is posted to."""
    if request.method == "POST":
        Group.objects.create(name="editors")
    names = [group.name for group in Group.objects.all()]
    return HttpResponse(f"<html><body>{names}</body></html>")


async def async_page(_request):
    """The same from a coroutine."""
    await asyncio.to_thread(emit_some)
    return HttpResponse("<html><body>page</body></html>")


def __getattr__(name):
    # The toolbar has a model, so its urls cannot be imported before the fixture has installed it.
    if name != "urlpatterns":
        raise AttributeError(name)
    pages = [path("page/", page), path("real/", real_page), path("async/", async_page)]
    return [*pages, path("__debug__/", include("debug_toolbar.urls"))]


@pytest.fixture(autouse=True)
def _toolbar():
    with override_settings(
        DEBUG=True,
        ROOT_URLCONF=__name__,
        INSTALLED_APPS=[*settings.INSTALLED_APPS, "django.contrib.staticfiles", "debug_toolbar"],
        MIDDLEWARE=["debug_toolbar.middleware.DebugToolbarMiddleware"],
        DEBUG_TOOLBAR_PANELS=["cachalot.panels.CachalotPanel"],
        DEBUG_TOOLBAR_CONFIG={"SHOW_TOOLBAR_CALLBACK": f"{__name__}.always", "IS_RUNNING_TESTS": False},
    ):
        from debug_toolbar.middleware import show_toolbar_func_or_path
        from debug_toolbar.store import get_store
        from debug_toolbar.toolbar import DebugToolbar

        DebugToolbar._panel_classes = None
        show_toolbar_func_or_path.cache_clear()
        get_store().clear()
        yield
    DebugToolbar._panel_classes = None
    show_toolbar_func_or_path.cache_clear()


@pytest.fixture(autouse=True)
def _times(monkeypatch):
    """Group was invalidated a long time ago, nothing else ever."""
    times = {"auth_group": 1_000_000_000.0}
    monkeypatch.setattr(api, "get_last_invalidation", lambda table, **_aliases: times.get(table, 0.0))


def always(_request):
    """Show the toolbar to everybody."""
    return True


def new_panel():
    """A panel of a request of its own."""
    from debug_toolbar.toolbar import DebugToolbar

    request = RequestFactory().get("/page/")
    toolbar = DebugToolbar(request, page)
    return toolbar.get_panel_by_id("CachalotPanel"), request


def observed(action):
    """The panel after a request in which ``action`` ran."""
    panel, request = new_panel()
    panel.enable_instrumentation()
    action()
    panel.disable_instrumentation()
    panel.generate_stats(request, HttpResponse())
    return panel


def stored_panel(response):
    """The panel as a later request renders it, from the store alone."""
    from debug_toolbar.store import get_store
    from debug_toolbar.toolbar import DebugToolbar

    assert response.status_code == 200
    (request_id,) = get_store().request_ids()
    panel = DebugToolbar.fetch(request_id, "CachalotPanel").get_panel_by_id("CachalotPanel")
    get_store().clear()
    return panel


def test_subtitle_counts_hits_and_misses():
    """The side bar tells the numbers in one line, bypasses only when there are some."""
    assert observed(lambda: None).nav_subtitle == "0 hits, 0 misses"
    assert observed(emit_some).nav_subtitle == "3 hits, 1 miss, 1 bypass"


def test_page_shows_each_reason_and_statement():
    """The content has the sentence of each reason, its detail, the SQL, the tables and the times."""
    content = observed(emit_some).content
    for expected in (
        "A table it reads was written since the result was stored",
        "It calls a function whose result does not follow from the tables",
        "now()",
        "&quot;auth_group&quot;.&quot;id&quot; &lt; %s",
        "30.00&nbsp;ms",
        "2001-09-09",
        "<td>Group</td>",
    ):
        assert expected in content
    assert "<script" not in content
    assert "style=" not in content


def test_stats_are_plain_data():
    """A store of the toolbar may keep the stats as JSON and nothing is lost."""
    stats = observed(emit_some).get_stats()
    assert json.loads(json.dumps(stats)) == stats


def test_equal_statements_are_one_row():
    """A page that reads the same in a loop is still readable."""
    hits = observed(lambda: emit_some(number=40)).get_stats()["sections"][0]
    assert [(row["times"], row["sql"]) for row in hits["rows"]] == [(40, SELECT)]


def test_huge_page_is_cut():
    """Neither thousands of statements nor a statement of a megabyte makes the panel unusable."""

    def read_much():
        for number in range(300):
            emit(ReadEvent(Decision.hit(), "default", f"SELECT {number} " + "x" * 9000, GROUPS, seconds=0.0))

    panel = observed(read_much)
    hits = panel.get_stats()["sections"][0]
    assert (len(hits["rows"]), hits["more"]) == (200, 100)
    assert max(len(row["sql"]) for row in hits["rows"]) < 5000
    assert "100 more statements are not shown" in panel.content


def test_trouble_with_the_cache_is_shown():
    """When the cache went away during the request, the panel says so."""
    panel = observed(lambda: emit(CacheEvent("away", "no answer")))
    assert "<strong>Cache away:</strong> no answer" in panel.content


def test_what_an_audit_found_is_shown():
    """The page on which a wrong result was found says so, with its statement and its tables."""
    found = AuditEvent("default", SELECT, GROUPS, ("*", "any(auth_group)"), "1 of 2 rows differ")

    def read():
        emit(ReadEvent(Decision.miss(Reason.AUDITED), "default", SELECT, GROUPS, 0.0, audited=True))
        emit(found)

    panel = observed(read)
    assert panel.get_stats()["audited"] == 1
    (row,) = panel.get_stats()["audits"]
    assert row == {
        "alias": "default",
        "sql": SELECT,
        "tables": ["auth_group"],
        "difference": "1 of 2 rows differ",
    }
    for text in ("Wrong results found by an audit", "1 of 2 rows differ", "1 hit audited"):
        assert text in panel.content
    assert "audit" not in observed(lambda: None).content


def test_switched_off_cache_is_shown():
    """A page without a hit because caching is off says so."""
    with override_settings(CACHALOT_ENABLED=False):
        assert "Caching is switched off" in observed(lambda: None).content
    assert "Caching is switched off" not in observed(lambda: None).content


def test_models_never_invalidated_are_left_out_unless_read():
    """The list has what was invalidated, and what this request read."""
    panel = observed(
        lambda: emit(ReadEvent(Decision.hit(), "default", "SELECT 1", frozenset({"auth_user"}), 0.0))
    )
    rows = [(row["model"], row["when"], row["touched"]) for row in panel.get_stats()["invalidations"]]
    assert rows == [("User", "", True), ("Group", rows[1][1], False)]


def test_slow_cache_does_not_hold_up_the_page(monkeypatch):
    """Asking for the time of every model ends after a moment; the models of the request come first."""
    moments = iter(range(1000))
    monkeypatch.setattr("cachalot.panels.monotonic", lambda: float(next(moments)))
    assert [row["model"] for row in observed(emit_some).get_stats()["invalidations"]] == ["Group"]


def test_instrumentation_is_idempotent():
    """The toolbar may enable or disable a panel twice; events count once and nothing keeps listening."""
    panel, request = new_panel()
    panel.disable_instrumentation()
    panel.enable_instrumentation()
    panel.enable_instrumentation()
    emit_some()
    panel.disable_instrumentation()
    panel.disable_instrumentation()
    emit_some()
    panel.generate_stats(request, HttpResponse())
    assert panel.nav_subtitle == "3 hits, 1 miss, 1 bypass"
    assert events._recording.get() == ()


def test_panel_changes_no_setting():
    """The panel only observes: after a request every setting and the engine's view of them are the same."""
    before = conf.current()
    observed(emit_some)
    assert conf.current() is before


@pytest.mark.parametrize("url", ["/page/", "/async/"])
def test_request_is_shown_from_the_store(url):
    """Under WSGI the panel is rendered later, in another request, from what the store kept."""
    panel = stored_panel(Client().get(url))
    assert panel.nav_subtitle == "3 hits, 1 miss, 1 bypass"
    assert "It calls a function whose result" in panel.content


@pytest.mark.parametrize("url", ["/page/", "/async/"])
def test_request_under_asgi_is_shown(url):
    """Under ASGI a sync view runs in a thread, and its events still belong to the request."""
    panel = stored_panel(asyncio.run(AsyncClient().get(url)))
    assert panel.nav_subtitle == "3 hits, 1 miss, 1 bypass"


@pytest.fixture
def _all_panels(_toolbar):
    from debug_toolbar.toolbar import DebugToolbar

    others = ["debug_toolbar.panels.sql.SQLPanel"]
    if not version("django-debug-toolbar").startswith("6.0"):  # see the check W009
        others.append("debug_toolbar.panels.cache.CachePanel")
    with override_settings(DEBUG_TOOLBAR_PANELS=[*others, "cachalot.panels.CachalotPanel"]):
        DebugToolbar._panel_classes = None
        yield


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("_all_panels")
def test_two_requests_are_a_miss_and_a_hit():
    """With the real ORM the first request misses and the second one hits, while other panels watch too."""
    assert stored_panel(Client().get("/real/")).nav_subtitle == "0 hits, 1 miss"
    assert stored_panel(Client().get("/real/")).nav_subtitle == "1 hit, 0 misses"


@pytest.mark.django_db(transaction=True)
def test_write_of_a_request_is_shown(monkeypatch):
    """With the real ORM a request that writes shows what it invalidated, and when."""
    monkeypatch.undo()
    stats = stored_panel(Client().post("/real/")).get_stats()
    assert {table for row in stats["writes"] for table in row["tables"]} == GROUPS
    (row,) = [row for row in stats["invalidations"] if row["model"] == "Group"]
    assert row["touched"]
    assert row["seconds"] < 60
