"""Runs the tests on mutants of a training step: `python tests/mutants/forked.py`.

Each mutant runs in a process forked from one that has collected the tests, so that its effects on threads, processes
and memory end with it. It is killed by the first test that fails, by an error in installing it, or by a timeout.
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
# Timeout of one test, which takes a second or two.
SECONDS = 30.0
WORKERS = "nl_nodes.runtime."


@dataclass
class Child:
    """A process that judges one mutant.

    Attributes:
        mutant: what it judges.
        pid: its number, and that of its group.
        pipe: where it names each test as it begins, and at last the verdict.
        said: all of that so far.
        heard: when it last said something.
    """

    mutant: Mutant
    pid: int
    pipe: int
    said: bytes = b""
    heard: float = field(default_factory=monotonic)

    def verdict(self) -> str:
        """Return what killed the mutant, or ""."""
        last = self.said.decode().splitlines()[-1:] or ["at once"]
        return last[0].removeprefix("verdict ") if last[0].startswith("verdict ") else f"crash in {last[0]}"


class Judges:
    """A plugin of pytest that in place of running the tests collected runs them for each mutant.

    Attributes:
        verdicts: what noticed each mutant, "" where nothing did.
    """

    def __init__(self, mutants: list[Mutant], processes: int) -> None:
        self.mutants, self.processes = mutants, processes
        self.verdicts: dict[Mutant, str] = {}
        self._failed = ""

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Judge every mutant, `processes` at a time."""
        waiting, running = iter(self.mutants), list[Child]()
        while True:
            while len(running) < self.processes and (mutant := next(waiting, None)) is not None:
                running.append(self._start(mutant, session))
            if not running:
                return True
            select.select([child.pipe for child in running], [], [], 0.1)
            running = [child for child in running if not self._over(child)]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the first failure."""
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
            os.write(there, f"verdict {self._judge(mutant, session, there)}\n".encode())
        finally:
            os._exit(0)

    def _judge(self, mutant: Mutant, session: pytest.Session, pipe: int) -> str:
        tests = {file: number for number, file in enumerate(tests_of(mutant.target))}
        items = [item for item in session.items if item.path.relative_to(ROOT / "tests").as_posix() in tests]
        items.sort(key=lambda item: tests[item.path.relative_to(ROOT / "tests").as_posix()])
        try:
            with in_workers_too(mutant), installed(mutant):
                for item, following in zip(items, [*items[1:], None], strict=True):
                    os.write(pipe, f"{item.nodeid}\n".encode())
                    item.ihook.pytest_runtest_protocol(item=item, nextitem=following)
                    if self._failed:
                        return self._failed
        except BaseException as error:
            return f"error {type(error).__name__}"
        return ""

    def _over(self, child: Child) -> bool:
        """Hear what a child says; whether it has ended, by itself or because it would not."""
        with suppress(BlockingIOError):
            said = os.read(child.pipe, 1 << 16)
            child.said, child.heard = child.said + said, monotonic()
            if said:
                return False
        ended = monotonic() - child.heard > SECONDS
        if not ended and os.waitpid(child.pid, os.WNOHANG)[0] == 0:
            return False
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        if ended:
            os.waitpid(child.pid, 0)
        os.close(child.pipe)
        self.verdicts[child.mutant] = "loop" if ended else child.verdict()
        report(child.mutant, self.verdicts[child.mutant], len(self.verdicts), len(self.mutants))
        return True


def in_workers_too(mutant: Mutant) -> Any:
    """For worker processes, which import the packages anew: a copy with the mutant in it comes first for them."""
    return _copied(mutant) if mutant.target.startswith(WORKERS) else nullcontext()


@contextmanager
def _copied(mutant: Mutant) -> Iterator[None]:
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
    """A line for a mutant that nothing noticed, and now and then how far it is."""
    if not verdict and mutant.mutation != "unchanged":
        print(f"\nSURVIVES {mutant.target}\n  {mutant.mutation}", flush=True)
    if number % 50 == 0 or number == count:
        print(f"\n{number} of {count}", flush=True)


LISTED = Path(__file__).with_name("equivalent_steps")
FOUND = ROOT / "outputs" / "mutants_of_steps.json"
Key = tuple[str, str]


def main() -> int:
    """Judge the mutants asked for; the number of those that nothing noticed, and of listed ones that something did."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="judge one mutant in N, and none that is listed")
    parser.add_argument("--only", default="", help="judge functions whose `module:name` contains this")
    parser.add_argument("--again", action="store_true", help="judge what survived last time")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    began, listed = monotonic(), equivalents()
    made = [m for name, t in step_targets().items() if given.only in name for m in step_mutants(t)]
    if given.again:
        before = {tuple(key) for key in json.loads(FOUND.read_text())["survivors"]}
        made = [m for m in made if (m.target, m.mutation) in before]
    chosen = made if given.every == 1 else [m for m in made if key(m) not in listed][:: given.every]
    if not chosen:
        parser.error("no mutant is chosen: training calls no such function, or nothing survived")
    # Tests that fail on the code as it is would seem to notice everything.
    controls = {tuple(tests_of(m.target)): unchanged(Target(m.target)) for m in chosen}.values()
    judges = Judges([*controls, *chosen], given.processes)
    files = dict.fromkeys(f"{ROOT}/tests/{file}" for m in chosen for file in tests_of(m.target))
    options = ["-p", "no:cacheprovider", "-p", "no:terminal", f"--rootdir={ROOT}", f"-c{ROOT}/pyproject.toml"]
    pytest.main([*options, *files], plugins=[judges])
    if failing := [(m.target, judges.verdicts.get(m, "no test ran")) for m in controls if judges.verdicts.get(m) != ""]:
        print("\n".join(f"a test of {target} fails on the code as it is: {verdict}" for target, verdict in failing))
        return len(failing)
    known = set(listed) if given.again else {key(m) for m in made}
    return conclude({m: judges.verdicts[m] for m in chosen}, listed, known, began)


def key(mutant: Mutant) -> Key:
    """What names a mutant in the list of equivalents."""
    return mutant.target, mutant.mutation


def equivalents() -> dict[Key, str]:
    """The reviewed equivalents: the reason by target and mutation."""
    entries = (
        entry for file in sorted(LISTED.glob("*.toml")) for entry in tomllib.loads(file.read_text())["equivalent"]
    )
    return {(e["function"], e["mutation"]): e["reason"] for e in entries}


def conclude(verdicts: dict[Mutant, str], listed: dict[Key, str], made: set[Key], began: float) -> int:
    """Print the counts by module, keep them, and return how many mutants stand against the list."""
    rows: dict[str, Counter[str]] = {}
    for mutant, verdict in verdicts.items():
        kind = "noticed" if verdict else "equivalent" if key(mutant) in listed else "survivors"
        rows.setdefault(mutant.target.split(":")[0], Counter()).update(["mutants", kind])
    rows["total"] = sum(rows.values(), Counter())
    columns = ("mutants", "noticed", "equivalent", "survivors")
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
    FOUND.parent.mkdir(exist_ok=True)
    FOUND.write_text(json.dumps({**rows["total"], "survivors": survivors, "by": by}, indent=1) + "\n")
    print(f"{monotonic() - began:.0f} s")
    return len(survivors) + len(stale)


if __name__ == "__main__":
    sys.exit(min(main(), 1))
