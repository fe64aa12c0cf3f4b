"""Random programs of calls on networks, drawn from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from fuzz.calls import CALLS, OPTIMIZERS, SIDE_BY_SIDE, WHOLE

WORKERS = {"one": 6, "threads": 6, "processes": 3}
"""How often each kind of workers is drawn; plans for processes take longest to make."""
MODELS = 3  # that a program has at most


@dataclass(frozen=True)
class Made:
    """One call: its name, the index of its model, and the seed of its arrays."""

    name: str
    model: int
    seed: int


@dataclass(frozen=True)
class Step:
    """A step of a program.

    Attributes:
        how: "plain", "thread", "together", "interrupt", or "deepcopy" and "pickle", which add a model.
        calls: one, or those that run at the same time, or one that is interrupted, perhaps made whole twice before;
            of a copied model none.
        at: where the call is interrupted, from 0 for its beginning to 1 for its end, or which model is copied.
    """

    how: str
    calls: tuple[Made, ...] = ()
    at: float = 0

    def __str__(self) -> str:
        calls = ", ".join(f"{call.name}(model {call.model}, seed {call.seed})" for call in self.calls)
        at = {"interrupt": f" at {self.at:.3f}", "deepcopy": f" model {self.at}", "pickle": f" model {self.at}"}
        return f"{self.how}{at.get(self.how, '')} {calls}".rstrip()


@dataclass(frozen=True)
class Program:
    """A random program: a kind of workers, a network, batch sizes, and steps."""

    seed: int
    workers: str
    batches: tuple[int, ...]
    optimizer: int
    steps: tuple[Step, ...]


def draw_program(seed: int) -> Program:
    """Return the program for a seed."""
    rng = np.random.default_rng(seed)
    weights = np.array(list(WORKERS.values()))
    workers = str(rng.choice(list(WORKERS), p=weights / weights.sum()))
    batches = tuple(int(n) for n in rng.integers(4, 8, 2))
    steps = tuple(_step(rng) for _ in range(rng.integers(4, 11)))
    return Program(seed, workers, batches, int(rng.integers(len(OPTIMIZERS))), steps)


def _step(rng: np.random.Generator) -> Step:
    def made(names: Sequence[str]) -> Made:
        return Made(str(rng.choice(names)), int(rng.integers(MODELS)), int(rng.integers(2**31)))

    how = str(
        rng.choice(["plain"] * 10 + ["thread"] * 2 + ["together"] * 2 + ["interrupt"] * 4 + ["deepcopy", "pickle"])
    )
    if how == "together":
        return Step(how, tuple(made(SIDE_BY_SIDE) for _ in range(rng.integers(2, 4))))
    if how == "interrupt":
        return Step(how, (made(WHOLE),) * int(rng.choice([1, 3, 3])), rng.random())
    if how in ("deepcopy", "pickle"):
        return Step(how, at=int(rng.integers(MODELS)))
    return Step(how, (made(list(CALLS)),))
