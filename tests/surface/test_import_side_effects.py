"""Importing does nothing: no settings are needed, nothing is read and nothing is connected."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import cachalot

IMPORTABLE = [
    "cachalot",
    "cachalot.api",
    "cachalot.apps",
    "cachalot.checks",
    "cachalot.conf",
    "cachalot.jinja2ext",
    "cachalot.management.commands.drain_cachalot",
    "cachalot.management.commands.invalidate_cachalot",
    "cachalot.settings",
    "cachalot.signals",
    "cachalot.templatetags.cachalot",
    "cachalot.utils",
]


def run(code, **environment):
    """What a fresh interpreter without Django settings prints."""
    inherited = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    paths = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**inherited, "PYTHONPATH": paths, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("module", IMPORTABLE)
def test_module_is_imported_without_settings(module):
    """A module can be imported anywhere, such as from the settings module itself."""
    code = f"import {module}; from django.conf import settings; print(settings.configured)"
    assert run(code) == "False"


def test_defaults_answer_without_settings():
    """Reading a setting before Django is configured gives its default."""
    code = "from cachalot import cachalot_settings as s; print(s.CACHALOT_ENABLED, s.CACHALOT_TIMEOUT)"
    assert run(code) == "True 86400.0"


def test_defaults_read_early_are_not_kept():
    """Settings that are configured later hold from then on."""
    code = """
from cachalot import cachalot_settings
assert cachalot_settings.CACHALOT_TIMEOUT == 86400
from django.conf import settings
settings.configure(CACHALOT_TIMEOUT=5)
print(cachalot_settings.CACHALOT_TIMEOUT)
"""
    assert run(code) == "5.0"


def test_settings_module_is_read_when_it_is_named(tmp_path):
    """Where a settings module is named in the environment, reading a setting loads it."""
    (tmp_path / "some_settings.py").write_text("CACHALOT_TIMEOUT = 7\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
    code += "from cachalot import cachalot_settings; print(cachalot_settings.CACHALOT_TIMEOUT)"
    assert run(code, DJANGO_SETTINGS_MODULE="some_settings") == "7.0"


def test_package_imports_no_models():
    """`import cachalot` costs little and can be done before any model exists."""
    code = "import sys, cachalot; print([name for name in sys.modules if name.startswith('django.db')])"
    assert run(code) == "[]"


def test_version_is_told_twice():
    """VERSION is for comparisons, __version__ for people."""
    assert cachalot.VERSION == (3, 0, 0)
    assert cachalot.__version__ == ".".join(map(str, cachalot.VERSION))


def test_both_import_paths_are_one_object():
    """`cachalot` and `cachalot.settings` give the same settings."""
    code = "import cachalot, cachalot.settings as s; print(s.cachalot_settings is cachalot.cachalot_settings)"
    assert run(code) == "True"
