"""Runs the tests on every Django we support and every Python that is present.

    python -m tests.matrix [--only PYTHON-DJANGO …] [-- ARGUMENT OF tests.run …]

What a version of Python or Django can change is run: the rest (caches, servers, faults, model) is the same
everywhere. Each Django runs on its newest Python with SQLite and with PostgreSQL, on the others with SQLite.
Each combination has a virtual environment below .matrix/; two are run at a time. The table is printed and
written to reports/matrix.txt.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENTS = ROOT / ".matrix"
REPORT = ROOT / "reports" / "matrix.txt"
BOTH = ("sqlite:locmem", "postgresql:redis")
SQLITE = BOTH[:1]
AT_A_TIME = 2
SUITES = ("acceptance", "algebra", "analysis", "codecs", "core", "engine", "stateful", "surface")

#: The Pythons each Django is tested on.
SUPPORTED = {
    "4.2": ("3.10", "3.11", "3.12"),
    "5.2": ("3.10", "3.11", "3.12", "3.13"),
    "6.0": ("3.12", "3.13"),
    "6.1": ("3.12", "3.13"),
}
#: Packages whose newest versions no longer accept a Django.
CONSTRAINTS = {"4.2": "constraints/django42.txt"}


class Combination(NamedTuple):
    """A Python and a Django, by their short versions."""

    python: str
    django: str

    def __str__(self) -> str:
        return f"{self.python}-{self.django}"


def find_python(version: str) -> str | None:
    """An interpreter of that version, on PATH or among those of pyenv (whose shims may be switched off)."""
    installed = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}"), reverse=True)
    for candidate in (shutil.which(f"python{version}"), *map(str, installed)):
        if candidate is not None and answers(candidate, version):
            return candidate
    return None


def answers(interpreter: str, version: str) -> bool:
    """Whether it starts and is what its name says."""
    done = subprocess.run(
        [interpreter, "-c", "import ensurepip, sys; print('%d.%d' % sys.version_info[:2])"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode == 0 and done.stdout.strip() == version


def prepare(combination: Combination, interpreter: str) -> Path:
    """Make or refresh the environment of a combination.

    :returns: its Python.
    :raises subprocess.CalledProcessError: when something cannot be installed.
    """
    folder = ENVIRONMENTS / str(combination)
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([interpreter, "-m", "venv", str(folder)], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--upgrade", "pip>=25.1"], check=True)
    constraints = CONSTRAINTS.get(combination.django, "constraints/dev.txt")
    wanted = [f"Django=={combination.django}.*", "--group", "test", "."]
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--constraint", constraints, *wanted],
        check=True,
        cwd=ROOT,
    )
    return python


def pairs_of(combination: Combination) -> Sequence[str]:
    """The pairs that a combination runs."""
    return BOTH if combination.python == SUPPORTED[combination.django][-1] else SQLITE


def run(combination: Combination, pair: str, python: Path, arguments: Sequence[str]) -> str:
    """Run the tests with a Python of the matrix, on one pair.

    :returns: the line with the sum, or what the exit status was when there is none.
    """
    suites = [f"tests/{suite}" for suite in SUITES]
    command = [str(python), "-m", "tests.run", "--pairs", pair, "--only", *suites, *arguments]
    return result_of(str(combination), command, {**os.environ, "CACHALOT_TEST_LOGS": str(combination)})


def result_of(name: str, command: Sequence[str], environment: dict[str, str]) -> str:
    """Run tests.run, and show what it prints behind a name.

    :returns: its line with the sum, or what its exit status was when there is none.
    """
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, encoding="utf-8", env=environment
    )
    assert process.stdout is not None
    result = ""
    for line in process.stdout:
        sys.stdout.write(f"{name} {line}")
        if re.fullmatch(r"\d+ passed, \d+ failed\n", line):
            result = line.strip()
    status = process.wait()
    return result or f"ended with {status}"


def prepared(combination: Combination, interpreter: str | None) -> Path | str:
    """The Python of a combination, or why there is none."""
    if interpreter is None:
        return "no such Python here"
    print(f"== Python {combination.python}, Django {combination.django}: installing", flush=True)
    try:
        return prepare(combination, interpreter)
    except subprocess.CalledProcessError as error:
        return f"not installed: {error}"


def good(result: str) -> bool:
    """Whether something ran and nothing failed."""
    return result.endswith(" 0 failed") and not result.startswith("0 ")


def main(argv: Sequence[str]) -> int:
    """Run every combination.

    :returns: the exit status, 0 when at least one ran and none failed.
    """
    cut = argv.index("--") if "--" in argv else len(argv)
    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="PYTHON-DJANGO", help="such as 3.12-6.1; all by default")
    only = parser.parse_args(argv[:cut]).only
    combinations = [
        Combination(python, django) for django, pythons in SUPPORTED.items() for python in pythons
    ]
    os.environ.setdefault("PIP_DISABLE_PIP_VERSION_CHECK", "1")
    versions = {combination.python for combination in combinations}
    interpreters = {version: find_python(version) for version in versions}
    wanted = [one for one in combinations if not only or str(one) in only]
    pythons = {one: prepared(one, interpreters[one.python]) for one in wanted}
    cells = [(one, pair) for one in wanted for pair in pairs_of(one)]

    def cell(combination: Combination, pair: str) -> str:
        python = pythons[combination]
        if isinstance(python, str):
            return python
        return run(combination, pair, python, argv[cut + 1 :])

    with ThreadPoolExecutor(AT_A_TIME) as threads:
        results = dict(zip(cells, threads.map(lambda one: cell(*one), cells), strict=True))
    table = "".join(
        f"Python {combination.python:<6}Django {combination.django:<6}{pair:<20}{result}\n"
        for (combination, pair), result in results.items()
    )
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(table)
    print(f"\n{table}", end="")
    ran = [result for (one, _pair), result in results.items() if interpreters[one.python] is not None]
    return 0 if ran and all(map(good, ran)) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
