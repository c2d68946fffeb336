"""Virtual environments for what is compared: cachalot of this checkout, and its rivals beside it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".bench"
DJANGO = "Django==5.2.*"
COMMON = (DJANGO, "psycopg[binary]", "redis", "hiredis")
PACKAGES = {
    "cachalot": (".",),
    "django-cachalot": ("django-cachalot==2.9.1",),
    "django-cacheops": ("django-cacheops==7.2",),
}


def python_of(name: str) -> Path:
    """Make or refresh an environment.

    :param name: key of :data:`PACKAGES`.
    :returns: its Python.
    :raises subprocess.CalledProcessError: something cannot be installed.
    """
    folder = FOLDER / name
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    constraint = ["--constraint", ROOT / "constraints" / "dev.txt"]
    subprocess.run([*pip, *constraint, *COMMON, *PACKAGES[name]], check=True, cwd=ROOT)
    return python
