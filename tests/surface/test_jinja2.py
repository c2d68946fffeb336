"""The Jinja2 extension: what a ``{% cache %}`` block keeps, and under which key."""

from __future__ import annotations

import asyncio

import pytest
from django.core.cache import caches
from django.template import engines
from django.test import override_settings
from jinja2 import DictLoader, Environment, TemplateSyntaxError
from markupsafe import Markup

from cachalot import api
from cachalot.jinja2ext import cachalot


def environment(**options):
    """An environment with the extension."""
    return Environment(extensions=[cachalot], autoescape=True, **options)


def render(source, /, **context):
    """The text that a template without a name becomes."""
    return environment().from_string(source).render(**context)


def test_block_is_rendered_once():
    """What a block was rendered to is served to later renderings."""
    source = "{% cache cache_key='a' %}{{ value }}{% endcache %}"
    assert render(source, value=1) == "1"
    assert render(source, value=2) == "1"


def test_other_key_is_another_block():
    """The key may be any expression; 1 and '1' are not the same."""
    source = "{% cache cache_key=key %}{{ value }}{% endcache %}"
    assert [
        render(source, key=key, value=number)
        for number, key in enumerate(["a b", 1, "1", ("a", 1), "ä" * 500])
    ] == [
        "0",
        "1",
        "2",
        "3",
        "4",
    ]
    assert render(source, key=1, value="new") == "1"


def test_empty_block_is_kept():
    """An empty text is a value like any other."""
    source = "{% cache cache_key='a' %}{{ value }}{% endcache %}"
    assert render(source, value="") == ""
    assert render(source, value="late") == ""


def test_kept_text_is_not_escaped_twice():
    """A hit prints the same markup as the rendering that was kept."""
    source = "{% cache cache_key='a' %}<b>{{ value }}</b>{% endcache %}"
    assert [render(source, value="<") for _ in range(2)] == ["<b>&lt;</b>"] * 2
    assert [render("{% set x %}" + source + "{% endset %}{{ x }}", value="<") for _ in range(2)] == [
        "<b>&lt;</b>"
    ] * 2


def test_what_is_stored_is_plain_text(monkeypatch):
    """Markup objects are not stored, so that every serializer of a cache can take the value."""
    stored = []
    monkeypatch.setattr(
        type(caches["second"]), "set", lambda _self, _key, value, *_timeout: stored.append(value)
    )
    render(
        "{% cache cache_key='a', cache_alias='second' %}<b>{{ value }}</b>{% endcache %}", value=Markup("<i>")
    )
    assert stored == ["<b><i></b>"]
    assert type(stored[0]) is str


def test_timeout_and_alias_are_handed_on(monkeypatch):
    """Seconds and the alias reach the cache as they were written, and so does no end."""
    calls = []
    cache = caches["second"]
    monkeypatch.setattr(
        type(cache), "set", lambda _self, key, value, *timeout: calls.append((value, *timeout))
    )
    render("{% cache cache_key='a', timeout=30, cache_alias='second' %}x{% endcache %}")
    render("{% cache cache_key='b' timeout=none cache_alias='second' %}y{% endcache %}")
    assert calls == [("x", 30), ("y", None)]


def test_block_that_expired_is_rendered_anew():
    """A timeout of zero keeps nothing."""
    source = "{% cache cache_key='a', timeout=0 %}{{ value }}{% endcache %}"
    assert render(source, value=1) == "1"
    assert render(source, value=2) == "2"


def test_place_is_the_default_key():
    """Without a key a block is known by its template and line; two in one line are two."""
    loader = DictLoader(
        {
            "one": "{% cache %}{{ a }}{% endcache %}-{% cache %}{{ b }}{% endcache %}",
            "two": "{% cache %}{{ a }}{% endcache %}",
        }
    )
    first, second = environment(loader=loader), environment(loader=loader)
    assert first.get_template("one").render(a=1, b=2) == "1-2"
    assert first.get_template("two").render(a=3) == "3"
    assert second.get_template("one").render(a=8, b=9) == "1-2"


def test_block_without_key_in_a_template_without_name_is_refused():
    """A block that cannot be told from others must be given a key."""
    with pytest.raises(TemplateSyntaxError, match="cache_key"):
        render("{% cache %}x{% endcache %}")


@pytest.mark.parametrize(
    "arguments", ["key='a'", "cache_key='a', cache_key='b'", "'a'", "cache_key", "cache_key='a' 30"]
)
def test_wrong_argument_is_refused(arguments):
    """A misspelt argument is an error when the template is compiled, not a block with the wrong key."""
    with pytest.raises(TemplateSyntaxError):
        render("{% cache " + arguments + " %}x{% endcache %}")


def test_blocks_nest():
    """A block inside another one is kept for itself."""
    inner = "{% cache cache_key='inner' %}{{ value }}{% endcache %}"
    source = "{% cache cache_key=outer %}{{ value }}" + inner + "{% endcache %}"
    assert render(source, outer=1, value="a") == "aa"
    assert render(source, outer=2, value="b") == "ba"


def test_async_environment_is_served():
    """In an environment with enable_async the block is awaited and kept just the same."""
    template = environment(enable_async=True).from_string(
        "{% cache cache_key='a' %}{{ value }}{% endcache %}"
    )
    assert [asyncio.run(template.render_async(value=value)) for value in (1, 2)] == ["1", "1"]


def test_last_invalidation_is_a_global_function(monkeypatch):
    """A block is keyed by the time of the last invalidation of what it shows."""
    times = iter([1.0, 1.0, 2.0])
    monkeypatch.setattr(
        api, "get_last_invalidation", lambda *tables, **_aliases: next(times) if tables else 0.0
    )
    source = "{% cache cache_key=get_last_invalidation('auth.User') %}{{ value }}{% endcache %}"
    assert [render(source, value=value) for value in "abc"] == ["a", "a", "c"]


def test_extension_is_named_in_the_settings_of_django():
    """A project adds the extension by its path."""
    backend = {
        "BACKEND": "django.template.backends.jinja2.Jinja2",
        "NAME": "jinja2",
        "OPTIONS": {"extensions": ["cachalot.jinja2ext.cachalot"]},
    }
    with override_settings(TEMPLATES=[backend]):
        template = engines["jinja2"].from_string("{% cache cache_key='a' %}{{ value }}{% endcache %}")
        assert template.render({"value": 1}) == "1"
        assert template.render({"value": 2}) == "1"
