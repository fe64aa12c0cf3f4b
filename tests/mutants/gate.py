"""Runs the gate: every mutant before every judge, on all cores, and what came of it."""

from __future__ import annotations

import ast
import multiprocessing
import os
import tomllib
import warnings
from collections.abc import Callable, Container, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from support.node_cases import NODES

from mutants.mutator import Mutant, installed, mutants, unchanged
from mutants.oracles import elementwise, exams, killer, quick_killer, textbook
from mutants.targets import Target, parts, syntax, targets
from nl_nodes.verify import mutated_code

LISTED = Path(__file__).parent / "equivalent.toml"
CHUNK = 24
Task = tuple[Target, list[Mutant]]
"""A target and some of its mutants."""
ENOUGH = 10


@dataclass(frozen=True)
class Verdict:
    """What became of one mutant: which check killed it, or "", and whether the two simple styles noticed it."""

    mutant: Mutant
    killed_by: str
    textbook: bool
    elementwise: bool

    @property
    def key(self) -> tuple[str, str]:
        """What names it in the list of equivalents."""
        return self.mutant.target, self.mutant.mutation


@dataclass(frozen=True)
class Report:
    """What came of a run.

    Attributes:
        verdicts: on the mutants that were judged.
        listed: the reasons of the listed equivalents.
        made: what names the mutants of these nodes, judged or not.
        code: the hash of the code that was mutated.
        every: 1 where all were judged, 10 where every tenth of each function was.
    """

    verdicts: list[Verdict]
    listed: dict[tuple[str, str], str]
    made: set[tuple[str, str]]
    code: str
    every: int = 1

    def survivors(self) -> list[Verdict]:
        """Mutants that nothing kills and nobody listed."""
        return [v for v in self.verdicts if not v.killed_by and v.key not in self.listed]

    def stale(self) -> list[tuple[str, str]]:
        """Listed equivalents that are killed, or are no mutants any more."""
        killed = {v.key for v in self.verdicts if v.killed_by}
        return [key for key in self.listed if key in killed or key not in self.made]

    def counts(self, verdicts: list[Verdict] | None = None) -> dict[str, int]:
        """How many mutants, killed, listed as equivalent, and noticed by the two simple styles."""
        chosen = self.verdicts if verdicts is None else verdicts
        return {
            "mutants": len(chosen),
            "killed": sum(bool(v.killed_by) for v in chosen),
            "equivalent": sum(v.key in self.listed for v in chosen),
            "by_error": sum(v.killed_by in ("error", "loop", "crash") for v in chosen),
            "textbook": sum(v.textbook for v in chosen),
            "elementwise": sum(v.elementwise for v in chosen),
        }

    def summary(self) -> dict[str, Any]:
        """What a certificate quotes."""
        return {**self.counts(), "code": self.code, "every": self.every}

    def table(self) -> str:
        """The counts by node; what several share stands under its own name."""
        owners: dict[str, list[Verdict]] = {}
        for verdict in self.verdicts:
            owners.setdefault(verdict.mutant.target.split(":")[1].split(".")[0], []).append(verdict)
        rows = [(name, self.counts(owners[name])) for name in sorted(owners)]
        rows.append(("total", self.counts()))
        columns = list(rows[-1][1])
        lines = [f"{'':14}" + "".join(f"{column:>12}" for column in columns)]
        lines += [f"{name:14}" + "".join(f"{counts[c]:12}" for c in columns) for name, counts in rows]
        total = rows[-1][1]
        score = total["killed"] / max(total["mutants"] - total["equivalent"], 1)
        return "\n".join([*lines, f"killed of those that are not equivalent: {score:.2%}"])


def run(fused: bool = False, every: int = 1) -> Report:
    """Judge every so-manieth mutant of every node, or of the compiler's fused nodes."""
    found, made = targets(fused), set()

    def tasks() -> Iterator[Task]:
        for target in found.values():
            all_ = mutants(target)
            made.update((m.target, m.mutation) for m in all_)
            chosen = all_[::every]
            yield from ((target, chosen[start : start + CHUNK]) for start in range(0, len(chosen), CHUNK))

    found_verdicts = verdicts(tasks())
    return Report(found_verdicts, listed(found), made, mutated_code()["fused" if fused else "nodes"], every)


def verdicts(tasks: Iterable[Task], judge: Callable[[Task], list[Verdict]] | None = None) -> list[Verdict]:
    """The verdicts on all tasks, by as many processes as there are cores.

    A mutant may end its process, and all that the pool has not done yet is lost with it: that is judged again, in
    halves, until the one that does it stands alone.
    """
    found: list[Verdict] = []
    lost: list[Task] = []
    # Spawned, not forked: a fork of a process with threads may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(os.cpu_count() or 1, 8), context, initializer=_strict) as pool:
        for task, future in [(task, _submit(pool, judge or judged, task)) for task in tasks]:
            try:
                found += future.result()
            except BrokenProcessPool:
                lost.append(task)
    if len(lost) == 1:
        target, chosen = lost[0]
        if len(chosen) == 1:
            return [*found, Verdict(chosen[0], "crash", False, False)]
        lost = [(target, [mutant]) for mutant in chosen]
    middle = len(lost) // 2
    return found + [v for half in (lost[:middle], lost[middle:]) if half for v in verdicts(half, judge)]


def _submit(pool: ProcessPoolExecutor, judge: Callable[[Task], list[Verdict]], task: Task) -> Future[list[Verdict]]:
    """The task's future, also where the pool is broken already."""
    try:
        return pool.submit(judge, task)
    except BrokenProcessPool as broken:
        future: Future[list[Verdict]] = Future()
        future.set_exception(broken)
        return future


def _strict() -> None:
    warnings.simplefilter("error")


def judged(task: Task) -> list[Verdict]:
    """The verdicts on some of a target's mutants."""
    target, chosen = task
    for name in target.users:
        exams(name)  # of the code as it is
    # Put in place the same way: what kills a mutant must be the change, not the putting.
    with installed(unchanged(target)):
        assert not quick_killer(target.users), f"{target.name}: a check fails on the code as it is"
    return [_judge(target, mutant) for mutant in chosen]


@cache
def mutants_of(name: str) -> list[Mutant]:
    """The mutants of a target, made once in each process."""
    return mutants(Target(name))


def _judge(target: Target, mutant: Mutant) -> Verdict:
    with installed(mutant):
        # What simple styles would notice is asked of nodes that such a project would have.
        styles = (textbook(target.users), elementwise(target.users)) if not target.fused else (False, False)
        return Verdict(mutant, killer(target.users), *styles)


def listed(found: Container[str]) -> dict[tuple[str, str], str]:
    """The reviewed equivalents among these targets' mutants: the reason by target and mutation."""
    entries = tomllib.loads(LISTED.read_text())["equivalent"]
    return {(e["function"], e["mutation"]): e["reason"] for e in entries if e["function"] in found}


def thin() -> Iterator[tuple[str, int]]:
    """Backwards that compute something and yet have fewer than ten mutants, with what they call."""
    found = [target for target in targets().values() if target.function and "backward" in target.roles]
    for node in NODES:
        mine = [target for target in found if node in target.users]
        arithmetic = (ast.BinOp, ast.UnaryOp, ast.AugAssign)
        computes = any(isinstance(part, arithmetic) for t in mine for part in parts(syntax(t.function)))
        count = sum(len(mutants_of(target.name)) for target in mine)
        if computes and count < ENOUGH:
            yield node, count
