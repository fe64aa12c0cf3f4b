"""Runs the tests on mutants of a training step: `python tests/mutants/forked.py`.

Each mutant runs in its own process, forked from one that has collected the tests, so that its effects on threads,
processes and memory end with it. It is killed by the first failing test, an error in installing it, or a timeout.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import select
import shutil
import signal
import sys
import tempfile
import textwrap
import tomllib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import nl_nodes
from mutants.mutator import Mutant, installed, unchanged
from mutants.step import step_mutants, step_targets
from mutants.targets import Target, resolve
from mutants.tests_of_modules import tests_of

ROOT = Path(__file__).parents[2]
# Timeout for one test; a test takes a second or two.
SECONDS = 30.0
WORKERS = "nl_nodes.runtime."


@dataclass
class Child:
    """A process that runs the tests on one mutant.

    Attributes:
        mutant: the mutant.
        pid: its process ID and process group ID.
        pipe: it writes the name of each test before it runs, and finally the verdict.
        output: everything read from the pipe so far.
        last_read: time of the last output.
    """

    mutant: Mutant
    pid: int
    pipe: int
    output: bytes = b""
    last_read: float = field(default_factory=monotonic)

    def verdict(self) -> str:
        """Return what killed the mutant, or ""."""
        last = self.output.decode().splitlines()[-1:] or ["at once"]
        return last[0].removeprefix("verdict ") if last[0].startswith("verdict ") else f"crash in {last[0]}"

    def file(self) -> str:
        """Return the file of the last test that began, or ""."""
        tests = [line for line in self.output.decode().splitlines() if not line.startswith("verdict ")]
        return tests[-1].split("::")[0].removeprefix("tests/") if tests else ""


class MutantRunner:
    """Pytest plugin that runs the collected tests on each mutant, instead of once.

    Attributes:
        files: the test files to run on each mutant, in this order.
        verdicts: what killed each mutant, or "".
        last: the file of the last test that ran on each mutant.
    """

    def __init__(self, mutants: list[Mutant], processes: int) -> None:
        self.files, self.processes = {mutant: tests_of(mutant.target) for mutant in mutants}, processes
        self.verdicts: dict[Mutant, str] = {}
        self.last: dict[Mutant, str] = {}
        self._failed = ""

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run the tests on every mutant, and then on the original code."""
        self._run_all(list(self.files), session)
        controls = self.controls()
        self.files |= controls
        self._run_all(list(controls), session)
        return True

    def controls(self) -> dict[Mutant, list[str]]:
        """Return unchanged functions, with the test files to run on them: all that killed a mutant.

        Tests that fail on the original code would seem to kill every mutant. A list of files runs up to the last one
        that killed a mutant.
        """
        longest: dict[tuple[str, ...], tuple[int, str]] = {}
        for mutant, verdict in self.verdicts.items():
            files, last = tuple(self.files[mutant]), self.last[mutant]
            if verdict:
                needed = files.index(last) + 1 if last else 1
                longest[files] = max(longest.get(files, (0, "")), (needed, mutant.target))
        found = {files[:needed]: unchanged(Target(target)) for files, (needed, target) in longest.items()}
        return {mutant: list(files) for files, mutant in found.items()}

    def _run_all(self, mutants: list[Mutant], session: pytest.Session) -> None:
        """Run the tests on mutants, `processes` at a time."""
        waiting, running = iter(mutants), list[Child]()
        while True:
            while len(running) < self.processes and (mutant := next(waiting, None)) is not None:
                running.append(self._start(mutant, session))
            if not running:
                return
            select.select([child.pipe for child in running], [], [], 0.1)
            running = [child for child in running if not self._finished(child)]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record the first failure."""
        if report.failed and not self._failed:
            self._failed = report.nodeid

    def _start(self, mutant: Mutant, session: pytest.Session) -> Child:
        here, there = os.pipe()
        sys.stdout.flush()
        pid = os.fork()
        if pid:
            os.close(there)
            os.set_blocking(here, False)
            return Child(mutant, pid, here)
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        try:
            os.write(there, f"verdict {self._run_tests(mutant, session, there)}\n".encode())
        finally:
            os._exit(0)

    def _run_tests(self, mutant: Mutant, session: pytest.Session, pipe: int) -> str:
        tests = {file: number for number, file in enumerate(self.files[mutant])}
        items = [item for item in session.items if item.path.relative_to(ROOT / "tests").as_posix() in tests]
        items.sort(key=lambda item: tests[item.path.relative_to(ROOT / "tests").as_posix()])
        try:
            with installed_in_workers(mutant), installed(mutant):
                for item, following in zip(items, [*items[1:], None], strict=True):
                    os.write(pipe, f"{item.nodeid}\n".encode())
                    item.ihook.pytest_runtest_protocol(item=item, nextitem=following)
                    if self._failed:
                        return self._failed
        except BaseException as error:
            return f"error {type(error).__name__}"
        return ""

    def _finished(self, child: Child) -> bool:
        """Read a child's output, kill it after a timeout, and return whether it has ended."""
        with suppress(BlockingIOError):
            output = os.read(child.pipe, 1 << 16)
            child.output, child.last_read = child.output + output, monotonic()
            if output:
                return False
        timed_out = monotonic() - child.last_read > SECONDS
        if not timed_out and os.waitpid(child.pid, os.WNOHANG)[0] == 0:
            return False
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        if timed_out:
            os.waitpid(child.pid, 0)
        os.close(child.pipe)
        self.verdicts[child.mutant] = "timeout" if timed_out else child.verdict()
        self.last[child.mutant] = child.file()
        report(child.mutant, self.verdicts[child.mutant], len(self.verdicts), len(self.files))
        return True


def installed_in_workers(mutant: Mutant) -> Any:
    """Let worker processes, which import the packages themselves, import a copy that contains the mutant."""
    return _mutated_copy(mutant) if mutant.target.startswith(WORKERS) else nullcontext()


@contextmanager
def _mutated_copy(mutant: Mutant) -> Iterator[None]:
    with tempfile.TemporaryDirectory() as folder:
        package = shutil.copytree(Path(nl_nodes.__file__).parent, Path(folder) / "nl_nodes")
        function: Any = resolve(mutant.target)
        lines, first = inspect.getsourcelines(function)
        path = package.parent.joinpath(*function.__module__.split(".")).with_suffix(".py")
        if not path.exists():
            path = path.with_suffix("") / "__init__.py"
        text = path.read_text().splitlines(keepends=True)
        decorators = next(number for number, line in enumerate(lines) if line.lstrip().startswith("def "))
        margin = lines[decorators][: -len(lines[decorators].lstrip())]
        text[first - 1 + decorators : first - 1 + len(lines)] = [textwrap.indent(mutant.source, margin) + "\n"]
        path.write_text("".join(text))
        sys.path.insert(0, folder)
        yield


def report(mutant: Mutant, verdict: str, number: int, count: int) -> None:
    """Print a line for each surviving mutant, and the progress after every 50."""
    if not verdict and mutant.mutation != "unchanged":
        print(f"\nSURVIVES {mutant.target}\n  {mutant.mutation}", flush=True)
    if number % 50 == 0 or number == count:
        print(f"\n{number} of {count}", flush=True)


LISTED = Path(__file__).with_name("equivalent_steps")
RESULTS = ROOT / "outputs" / "mutants_of_steps.json"
Key = tuple[str, str]


def main() -> int:
    """Run the selected mutants; return the number of unlisted survivors and of stale entries in the list."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="run one mutant in N, and no listed equivalents")
    parser.add_argument("--only", default="", help="run mutants of functions whose `module:name` contains this")
    parser.add_argument("--again", action="store_true", help="run the survivors of the last run")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    began, listed = monotonic(), equivalents()
    made = [m for name, t in step_targets().items() if given.only in name for m in step_mutants(t)]
    if given.again:
        before = {tuple(key) for key in json.loads(RESULTS.read_text())["survivors"]}
        made = [m for m in made if (m.target, m.mutation) in before]
    chosen = made if given.every == 1 else [m for m in made if key(m) not in listed][:: given.every]
    if not chosen:
        parser.error("no mutant is chosen: training calls no such function, or nothing survived")
    runner = MutantRunner(chosen, given.processes)
    files = dict.fromkeys(f"{ROOT}/tests/{file}" for m in chosen for file in tests_of(m.target))
    options = ["-p", "no:cacheprovider", "-p", "no:terminal", f"--rootdir={ROOT}", f"-c{ROOT}/pyproject.toml"]
    pytest.main([*options, *files], plugins=[runner])
    if not runner.verdicts:
        parser.error("no test ran")
    if failing := [(m.target, why) for m, why in runner.verdicts.items() if m.mutation == "unchanged" and why]:
        print("\n".join(f"a test of {target} fails on the original code: {why}" for target, why in failing))
        return len(failing)
    known = set(listed) if given.again else {key(m) for m in made}
    return summarize({m: runner.verdicts[m] for m in chosen}, listed, known, began)


def key(mutant: Mutant) -> Key:
    """Return a mutant's key in the list of equivalents."""
    return mutant.target, mutant.mutation


def equivalents() -> dict[Key, str]:
    """Return the reviewed equivalent mutants: the reason by target and mutation."""
    entries = (
        entry for file in sorted(LISTED.glob("*.toml")) for entry in tomllib.loads(file.read_text())["equivalent"]
    )
    return {(e["function"], e["mutation"]): e["reason"] for e in entries}


def summarize(verdicts: dict[Mutant, str], listed: dict[Key, str], made: set[Key], began: float) -> int:
    """Print and save the counts by module; return the number of unlisted survivors and of stale entries."""
    rows: dict[str, Counter[str]] = {}
    for mutant, verdict in verdicts.items():
        kind = "killed" if verdict else "equivalent" if key(mutant) in listed else "survivors"
        rows.setdefault(mutant.target.split(":")[0], Counter()).update(["mutants", kind])
    rows["total"] = sum(rows.values(), Counter())
    columns = ("mutants", "killed", "equivalent", "survivors")
    print(f"{'':40}" + "".join(f"{column:>12}" for column in columns))
    for name, counts in rows.items():
        print(f"{name:40}" + "".join(f"{counts[column]:12}" for column in columns))
    survivors = [key(m) for m, verdict in verdicts.items() if not verdict and key(m) not in listed]
    known = {m.target for m in verdicts}
    stale = [k for k in listed if k[0] in known and k not in made]
    stale += [key(m) for m, verdict in verdicts.items() if verdict and key(m) in listed]
    for target, mutation in stale:
        print(f"STALE in {LISTED.name}: {target}\n  {mutation}")
    by = Counter(verdict.split("::")[0] for verdict in verdicts.values())
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({**rows["total"], "survivors": survivors, "by": by}, indent=1) + "\n")
    print(f"{monotonic() - began:.0f} s")
    return len(survivors) + len(stale)


if __name__ == "__main__":
    sys.exit(min(main(), 1))
