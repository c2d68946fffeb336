"""Runs Django's own ORM tests with cachalot and without, and reports what ends otherwise.

    python -m tests.django_suite [--django VERSION,…] [--database sqlite,postgresql] [--only MODULE …]

What it needs it makes below .django-suite/: the source of Django, as pip finds it, and a virtual environment
with that Django and with cachalot from this checkout. The run without cachalot and the run with it go side by
side, each on a database server of its own; with --quick, only what does not pass is run again without. A
report is written to reports/ for each pair of a Django and a database when all modules were run. The exit
status is 1 if a test ended otherwise, unless modules.EXCEPTIONS has it, or if the cache was not used at all.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.django_suite.comparing import Comparison, Run
from tests.django_suite.modules import EXCEPTIONS, found
from tests.matrix import SUPPORTED, find_python
from tests.servers import Postgres
from tests.servers.base import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".django-suite"
REPORTS = ROOT / "reports"
DJANGOS = ("5.2", "6.1")
DATABASES = ("sqlite", "postgresql")
#: Of what Django's tests/requirements name, what none of the modules needs.
NOT_NEEDED = {
    *("aiosmtpd", "black", "colorama", "geoip2", "mysqlclient", "numpy", "oracledb", "pylibmc"),
    *("pymemcache", "pywatchman", "redis", "selenium"),
}


@dataclass(frozen=True)
class Suite:
    """One Django, ready to be run.

    :param django: its short version.
    :param python: the interpreter of its environment.
    :param tests: its folder of tests.
    """

    django: str
    python: Path
    tests: Path

    @property
    def version(self) -> str:
        """The full version, which is in the name of the unpacked source."""
        return self.tests.parent.name.partition("-")[2]


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.django_suite", description=__doc__.splitlines()[0])
    for name, default in (("--django", DJANGOS), ("--database", DATABASES)):
        parser.add_argument(name, type=_names, default=default, help=f"by default {','.join(default)}")
    parser.add_argument("--only", nargs="+", metavar="MODULE", help="these modules; no report is written")
    parser.add_argument("--python", help="such as 3.12; by default the newest that is present and supported")
    parser.add_argument(
        "--quick", action="store_true", help="run without cachalot only what does not pass with it"
    )
    return parser.parse_args(argv)


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def prepare(django: str, python: str | None) -> Suite:
    """Make or refresh what a Django needs below .django-suite/.

    :raises LookupError: there is no Python for it.
    :raises subprocess.CalledProcessError: something cannot be fetched or installed.
    """
    versions = [python] if python else reversed(SUPPORTED[django])
    interpreter = next((one for one in map(find_python, versions) if one), None)
    if interpreter is None:
        raise LookupError(f"no Python for Django {django} here")
    folder = FOLDER / django
    environment = folder / f"venv-{Path(interpreter).name.removeprefix('python')}"
    program = environment / "bin" / "python"
    if not program.exists():
        subprocess.run([interpreter, "-m", "venv", environment], check=True)
        pip(program, "install", "--upgrade", "pip>=25.1")
    tests = unpacked(folder, django, program) / "tests"
    version = tests.parent.name.partition("-")[2]
    pip(program, "install", f"Django=={version}", *requirements(tests / "requirements"))
    # As it is now: the run takes long, and the checkout may change meanwhile.
    pip(program, "install", "--no-deps", "--force-reinstall", str(ROOT))
    return Suite(django, program, tests)


def pip(python: Path, *command: str) -> None:
    """Run pip in an environment."""
    subprocess.run([python, "-m", "pip", "--quiet", "--disable-pip-version-check", *command], check=True)


def unpacked(folder: Path, django: str, python: Path) -> Path:
    """The source of a Django, fetched if there is none: wheels do not hold the tests."""
    present = sorted(folder.glob("django-*/tests/runtests.py"))
    if not present:
        downloads = folder / "downloads"
        pip(
            python, "download", "--no-binary=:all:", "--no-deps", f"--dest={downloads}", f"Django=={django}.*"
        )
        (archive,) = downloads.glob("*.tar.gz")
        with tarfile.open(archive) as opened:
            opened.extractall(folder, filter="data")
        shutil.rmtree(downloads)
        present = sorted(folder.glob("django-*/tests/runtests.py"))
    return present[-1].parents[1]


def requirements(folder: Path) -> list[str]:
    """What Django's tests ask for, without what these modules do not use."""
    texts = [(folder / name).read_text() for name in ("py3.txt", "postgres.txt")]
    lines = [line.strip() for text in texts for line in text.splitlines()]
    stripped = [line for line in lines if line and not line.startswith("#")]
    return [line for line in stripped if re.split(r"[^\w-]", line)[0].lower() not in NOT_NEEDED]


@dataclass
class Process:
    """One run of the modules.

    :param suite: the Django.
    :param database: ``"sqlite"`` or ``"postgresql"``.
    :param cached: whether cachalot is installed.
    :param labels: what is run: modules, classes or tests.
    """

    suite: Suite
    database: str
    cached: bool
    labels: list[str]

    @property
    def _stem(self) -> str:
        return f"{self.database}-{'with' if self.cached else 'without'}"

    @property
    def results(self) -> Path:
        """Where the process writes how tests ended."""
        return FOLDER / self.suite.django / f"{self._stem}.jsonl"

    @property
    def log(self) -> Path:
        """What the process printed."""
        return FOLDER / self.suite.django / f"{self._stem}.log"

    def start(self, stack: contextlib.ExitStack) -> subprocess.Popen[bytes]:
        """Start it, on a server of its own; both end with the stack."""
        self.results.unlink(missing_ok=True)
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "DJANGO_SETTINGS_MODULE": "tests.django_suite.suite_settings",
            "DJANGO_SUITE_CACHALOT": str(int(self.cached)),
            "DJANGO_SUITE_DATABASE": self.database,
            "DJANGO_SUITE_RESULTS": str(self.results),
        }
        if self.database == "postgresql":
            server = stack.enter_context(Postgres())
            environment["DJANGO_SUITE_POSTGRES"] = f"{server.address}:{server.user}"
        log = stack.enter_context(self.log.open("wb"))
        process = subprocess.Popen(
            [self.suite.python, "-m", "tests.django_suite.process", *self.labels],
            cwd=self.suite.tests,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=die_with_parent(signal.SIGTERM),  # noqa: PLW1509  # one prctl call, no threads here
        )
        stack.callback(process.wait)
        stack.callback(process.terminate)
        return process


def compare(suite: Suite, database: str, only: Sequence[str] | None, *, quick: bool) -> Comparison:
    """Run the modules with cachalot and without: side by side, or one after the other."""
    modules = found(suite.tests, only) if only else found(suite.tests)
    with_cachalot = Process(suite, database, cached=True, labels=modules)
    without = Process(suite, database, cached=False, labels=modules)
    run([with_cachalot] if quick else [without, with_cachalot])
    after = Run.read(with_cachalot.results)
    before = Run(counts={})
    if quick:
        without.labels = after.labels_to_repeat()
        run([without] if without.labels else [])
    if without.labels:
        before = Run.read(without.results)
    python = suite.python.parents[1].name.removeprefix("venv-")
    title = f"Django {suite.version}, {database}, Python {python}{', quick' * quick}: {len(modules)} modules"
    return Comparison(title, before, after, EXCEPTIONS)


def run(processes: Sequence[Process]) -> None:
    """Run processes side by side, to their end."""
    with contextlib.ExitStack() as stack:
        for process in [one.start(stack) for one in processes]:
            process.wait()


def main(argv: Sequence[str]) -> int:
    """Run what was asked for.

    :returns: the exit status.
    """
    asked = arguments(argv)
    signal.signal(signal.SIGTERM, lambda signum, _frame: sys.exit(128 + signum))
    status = 0
    for django in asked.django:
        suite = prepare(django, asked.python)
        for database in asked.database:
            started = time.monotonic()
            comparison = compare(suite, database, asked.only, quick=asked.quick)
            seconds = time.monotonic() - started
            print(f"{comparison.text()}\n{seconds:.0f} s", flush=True)  # noqa: T201 - its output is its purpose
            if comparison.faults():
                status = 1
            if not asked.only:
                (REPORTS / f"django-suite-{django}-{database}.txt").write_text(comparison.text())
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
