"""Runs the mutation gate for nodes on all cores, and reports killed, surviving and equivalent mutants."""

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
from mutants.oracles import elementwise, killer, prepared_cases, quick_killer, textbook
from mutants.targets import Target, parts, syntax, targets
from nl_nodes.verify import mutated_code

LISTED = Path(__file__).parent / "equivalent.toml"
CHUNK = 24
Task = tuple[Target, list[Mutant]]
"""A target and some of its mutants."""
MIN_MUTANTS = 10


@dataclass(frozen=True)
class Verdict:
    """Result for one mutant: the check that killed it, or "", and whether the two simple oracles kill it too."""

    mutant: Mutant
    killed_by: str
    textbook: bool
    elementwise: bool

    @property
    def key(self) -> tuple[str, str]:
        """The mutant's key in the list of equivalents."""
        return self.mutant.target, self.mutant.mutation


@dataclass(frozen=True)
class Report:
    """Result of a run.

    Attributes:
        verdicts: the verdicts on the mutants that ran.
        listed: the reasons of the listed equivalents, by key.
        made: the keys of all mutants of these nodes, run or not.
        code: hash of the mutated code.
        every: 1 if all mutants ran, 10 if every tenth of each function ran.
    """

    verdicts: list[Verdict]
    listed: dict[tuple[str, str], str]
    made: set[tuple[str, str]]
    code: str
    every: int = 1

    def survivors(self) -> list[Verdict]:
        """Return the mutants that survived and are not listed as equivalent."""
        return [v for v in self.verdicts if not v.killed_by and v.key not in self.listed]

    def stale(self) -> list[tuple[str, str]]:
        """Return the listed equivalents that are killed, or that no operator makes any more."""
        killed = {v.key for v in self.verdicts if v.killed_by}
        return [key for key in self.listed if key in killed or key not in self.made]

    def counts(self, verdicts: list[Verdict] | None = None) -> dict[str, int]:
        """Return the numbers of mutants, killed, equivalent, and killed by the two simple oracles."""
        chosen = self.verdicts if verdicts is None else verdicts
        return {
            "mutants": len(chosen),
            "killed": sum(bool(v.killed_by) for v in chosen),
            "equivalent": sum(v.key in self.listed for v in chosen),
            "by_error": sum(v.killed_by in ("error", "timeout", "crash") for v in chosen),
            "textbook": sum(v.textbook for v in chosen),
            "elementwise": sum(v.elementwise for v in chosen),
        }

    def summary(self) -> dict[str, Any]:
        """Return the scores that certificates quote."""
        return {**self.counts(), "code": self.code, "every": self.every}

    def table(self) -> str:
        """Return the counts by class or function as a table."""
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
        return "\n".join([*lines, f"mutation score (killed of the non-equivalent): {score:.2%}"])


def run(fused: bool = False, every: int = 1) -> Report:
    """Run every `every`-th mutant of each function of the nodes, or of the compiler's fused nodes."""
    found, made = targets(fused), set()

    def tasks() -> Iterator[Task]:
        for target in found.values():
            all_ = mutants(target)
            made.update((m.target, m.mutation) for m in all_)
            chosen = all_[::every]
            yield from ((target, chosen[start : start + CHUNK]) for start in range(0, len(chosen), CHUNK))

    found_verdicts = verdicts(tasks())
    return Report(found_verdicts, listed(found), made, mutated_code()["fused" if fused else "nodes"], every)


def verdicts(tasks: Iterable[Task], evaluate: Callable[[Task], list[Verdict]] | None = None) -> list[Verdict]:
    """Return the verdicts on all tasks, computed by one process per core, at most 8.

    A mutant may end its process, which loses all unfinished tasks of the pool. These run again, in halves, until the
    mutant that ends the process is alone.
    """
    found: list[Verdict] = []
    lost: list[Task] = []
    # Spawned, not forked: a fork of a process with threads may deadlock.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(os.cpu_count() or 1, 8), context, initializer=_strict) as pool:
        for task, future in [(task, _submit(pool, evaluate or evaluate_task, task)) for task in tasks]:
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
    return found + [v for half in (lost[:middle], lost[middle:]) if half for v in verdicts(half, evaluate)]


def _submit(pool: ProcessPoolExecutor, evaluate: Callable[[Task], list[Verdict]], task: Task) -> Future[list[Verdict]]:
    """Return the task's future, even if the pool is already broken."""
    try:
        return pool.submit(evaluate, task)
    except BrokenProcessPool as broken:
        future: Future[list[Verdict]] = Future()
        future.set_exception(broken)
        return future


def _strict() -> None:
    warnings.simplefilter("error")


def evaluate_task(task: Task) -> list[Verdict]:
    """Return the verdicts on some of a target's mutants."""
    target, chosen = task
    for name in target.users:
        prepared_cases(name)  # from the original code
    # The original, installed like a mutant: a mutant must be killed by its change, not by being installed.
    with installed(unchanged(target)):
        assert not quick_killer(target.users), f"{target.name}: a check fails on the original code"
    return [_evaluate_mutant(target, mutant) for mutant in chosen]


@cache
def mutants_of(name: str) -> list[Mutant]:
    """Return the mutants of a target, cached in each process."""
    return mutants(Target(name))


def _evaluate_mutant(target: Target, mutant: Mutant) -> Verdict:
    with installed(mutant):
        # The simple oracles run on basic nodes only; projects that use such oracles have no fused ones.
        simple = (textbook(target.users), elementwise(target.users)) if not target.fused else (False, False)
        return Verdict(mutant, killer(target.users), *simple)


def listed(found: Container[str]) -> dict[tuple[str, str], str]:
    """Return the reviewed equivalent mutants of these targets: the reason by target and mutation."""
    entries = tomllib.loads(LISTED.read_text())["equivalent"]
    return {(e["function"], e["mutation"]): e["reason"] for e in entries if e["function"] in found}


def under_mutated() -> Iterator[tuple[str, int]]:
    """Yield nodes whose backward has arithmetic but fewer than ten mutants, its helpers' included."""
    found = [target for target in targets().values() if target.function and "backward" in target.roles]
    for node in NODES:
        mine = [target for target in found if node in target.users]
        arithmetic = (ast.BinOp, ast.UnaryOp, ast.AugAssign)
        computes = any(isinstance(part, arithmetic) for t in mine for part in parts(syntax(t.function)))
        count = sum(len(mutants_of(target.name)) for target in mine)
        if computes and count < MIN_MUTANTS:
            yield node, count
