"""Runs the fuzzers, one after the other, and writes what came of it to reports/fuzz.txt.

    python -m tests.fuzz.run [--seconds N] [--keep] [TARGET …]

It needs atheris, and is started by ``make fuzz`` in an environment of its own. Inputs that reach new code are
collected in .fuzz/; with ``--keep`` the smallest set of inputs that reaches the same replaces the corpus of
the repository. An input that breaks a promise is kept in .fuzz/crashes/ and ends its target.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import importlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
HERE = Path(__file__).resolve().parent
WORK = ROOT / ".fuzz"
REPORT = ROOT / "reports" / "fuzz.txt"
TARGETS = ("sql", "entry")
MEGABYTES = 2048
#: Seconds for one input, and bytes of the largest one.
SLOWEST, LARGEST = 10, 1024
#: What is kept in the repository is read by people.
LARGEST_KEPT = 256

_PROGRESS = re.compile(r"cov: (\d+) ft: (\d+) corp: (\d+)")
_EXECUTED = re.compile(r"stat::number_of_executed_units:\s*(\d+)")


@dataclass
class Figures:
    """What came of one target."""

    target: str
    seconds: float
    executed: int
    edges: int
    features: int
    inputs: int
    crashes: list[str]

    @property
    def line(self) -> str:
        """What is printed about it."""
        return (
            f"{self.target:<7}{self.seconds:8.0f} s {self.executed:11,} executions {self.edges:6} edges "
            f"{self.features:7} features {self.inputs:6} inputs {len(self.crashes):4} crashes"
        )


def fuzz_in_this_process(target: str, options: list[str]) -> None:
    """Instrument the package, and hand over to libFuzzer, which ends the process."""
    import atheris

    with atheris.instrument_imports(include=["cachalot"]):
        module = importlib.import_module(f"tests.fuzz.fuzz_{target}")
    # To merge, libFuzzer starts its first argument again, through a shell.
    atheris.Setup([f"{sys.executable} -m tests.fuzz.run --inside {target} --", *options], module.check)
    atheris.Fuzz()


def start(target: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run libFuzzer in a process of its own."""
    command = [sys.executable, "-m", "tests.fuzz.run", "--inside", target, "--", *options]
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )


def fuzz(target: str, seconds: int) -> Figures:
    """Fuzz one target.

    :param seconds: how long; an input that breaks a promise ends it earlier.
    """
    found, crashes = WORK / "corpus" / target, WORK / "crashes"
    found.mkdir(parents=True, exist_ok=True)
    crashes.mkdir(exist_ok=True)
    before = set(crashes.iterdir())
    started = time.monotonic()
    done = start(
        target,
        *(f"-max_total_time={seconds}", f"-max_len={LARGEST}", f"-timeout={SLOWEST}"),
        *(f"-rss_limit_mb={MEGABYTES}", "-print_final_stats=1", f"-artifact_prefix={crashes}/{target}-"),
        f"-dict={HERE / (target + '.dict')}",
        *(str(found), str(HERE / "corpus" / target)),
    )
    (WORK / f"{target}.log").write_text(done.stdout + done.stderr)
    new = sorted(path.name for path in set(crashes.iterdir()) - before)
    if done.returncode and not new:
        print(*done.stderr.splitlines()[-20:], sep="\n", file=sys.stderr)
        raise SystemExit(f"the fuzzer of {target} did not run")
    reached = [tuple(map(int, one)) for one in _PROGRESS.findall(done.stderr)] or [(0, 0, 0)]
    executed = _EXECUTED.search(done.stderr)
    if new:
        print(*done.stdout.splitlines()[-30:], sep="\n")
    return Figures(
        target,
        time.monotonic() - started,
        int(executed[1]) if executed else 0,
        *(max(column) for column in zip(*reached, strict=True)),
        new,
    )


def keep(target: str) -> None:
    """Replace the corpus of the repository by the smallest inputs that reach what all of them reach."""
    corpus, small = HERE / "corpus" / target, WORK / "small" / target
    shutil.rmtree(small, ignore_errors=True)
    small.mkdir(parents=True)
    start(target, "-set_cover_merge=1", str(small), str(corpus), str(WORK / "corpus" / target))
    kept = [path for path in small.iterdir() if path.stat().st_size <= LARGEST_KEPT]
    if not kept:
        raise SystemExit(f"nothing was merged for {target}")
    for path in corpus.iterdir():
        path.unlink()
    for path in kept:
        shutil.copy(path, corpus / path.name[:16])


def write_report(all_figures: list[Figures]) -> None:
    """Write reports/fuzz.txt."""
    REPORT.parent.mkdir(exist_ok=True)
    sizes = {target: len(list((HERE / "corpus" / target).iterdir())) for target in TARGETS}
    lines = [
        f"Fuzzing, {dt.datetime.now(dt.timezone.utc):%Y-%m-%d}, Python {platform.python_version()}, atheris",
        "Edges and features are those of libFuzzer, over the modules of cachalot that were imported.",
        "",
        *(one.line for one in all_figures),
        *(f"       {name}" for one in all_figures for name in one.crashes),
        "",
        "Corpus in the repository: " + ", ".join(f"{count} for {name}" for name, count in sizes.items()),
    ]
    REPORT.write_text("\n".join(lines) + "\n")


def main(argv: list[str]) -> int:
    """Fuzz each target that is asked for.

    :returns: the exit status, 0 when nothing was found.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run", description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", default=list(TARGETS))
    parser.add_argument("--seconds", type=int, default=120, help="for each target; 120 by default")
    parser.add_argument("--keep", action="store_true", help="replace the corpus of the repository")
    asked = parser.parse_args(argv)
    all_figures = []
    for target in asked.targets:
        all_figures.append(fuzz(target, asked.seconds))
        print(all_figures[-1].line, flush=True)
        if asked.keep:
            keep(target)
    write_report(all_figures)
    return int(any(one.crashes for one in all_figures))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        fuzz_in_this_process(sys.argv[2], sys.argv[4:])
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main(sys.argv[1:]))
