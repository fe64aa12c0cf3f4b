"""Runs the gate: every mutant before every judge, on all cores, and what came of it."""

from __future__ import annotations

import ast
import multiprocessing
import os
import tomllib
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from support.node_cases import NODES

from mutants.judges import elementwise, killer, textbook
from mutants.mutator import Mutant, installed, mutants, unchanged
from mutants.targets import Target, digest, parts, syntax, targets

LISTED = Path(__file__).parent / "equivalent.toml"
CHUNK = 12
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
    """All verdicts, the listed equivalents, and the hash of the code that was mutated."""

    verdicts: list[Verdict]
    listed: dict[tuple[str, str], str]
    code: str

    def survivors(self) -> list[Verdict]:
        """Mutants that nothing kills and nobody listed."""
        return [v for v in self.verdicts if not v.killed_by and v.key not in self.listed]

    def stale(self) -> list[tuple[str, str]]:
        """Listed equivalents that are killed, or are no mutants any more."""
        alive = {v.key for v in self.verdicts if not v.killed_by}
        return [key for key in self.listed if key not in alive]

    def counts(self, verdicts: list[Verdict] | None = None) -> dict[str, int]:
        """How many mutants, killed, listed as equivalent, and noticed by the two simple styles."""
        chosen = self.verdicts if verdicts is None else verdicts
        return {
            "mutants": len(chosen),
            "killed": sum(bool(v.killed_by) for v in chosen),
            "equivalent": sum(v.key in self.listed for v in chosen),
            "by_error": sum(v.killed_by in ("error", "loop") for v in chosen),
            "textbook": sum(v.textbook for v in chosen),
            "elementwise": sum(v.elementwise for v in chosen),
        }

    def summary(self) -> dict[str, Any]:
        """What a certificate quotes."""
        return {**self.counts(), "code": self.code}

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


def run(fused: bool = False) -> Report:
    """Judge every mutant of every node, or of the compiler's fused nodes."""
    found = targets(fused)
    tasks = [(target, start) for target in found.values() for start in range(0, len(mutants(target)), CHUNK)]
    # Spawned, not forked: a fork of a process with threads may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(os.cpu_count() or 1, 8), context, initializer=_strict) as pool:
        verdicts = [verdict for chunk in pool.map(judged, tasks) for verdict in chunk]
    return Report(verdicts, listed(), digest(found))


def _strict() -> None:
    warnings.simplefilter("error")


def judged(task: tuple[Target, int]) -> list[Verdict]:
    """The verdicts on one chunk of a target's mutants."""
    target, start = task
    if start == 0:
        # Put in place the same way: what kills a mutant must be the change, not the putting.
        with installed(unchanged(target)):
            assert not killer(target.users), f"{target.name}: a check fails on the code as it is"
    return [_judge(target, mutant) for mutant in mutants_of(target.name)[start : start + CHUNK]]


@cache
def mutants_of(name: str) -> list[Mutant]:
    """The mutants of a target, made once in each process."""
    return mutants(Target(name))


def _judge(target: Target, mutant: Mutant) -> Verdict:
    with installed(mutant):
        # What simple styles would notice is asked of nodes that such a project would have.
        styles = (textbook(target.users), elementwise(target.users)) if not target.fused else (False, False)
        return Verdict(mutant, killer(target.users), *styles)


def listed() -> dict[tuple[str, str], str]:
    """The reviewed equivalents: the reason by target and mutation."""
    entries = tomllib.loads(LISTED.read_text())["equivalent"]
    return {(entry["function"], entry["mutation"]): entry["reason"] for entry in entries}


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
