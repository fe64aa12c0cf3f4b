"""Who judges a mutant: all our checks on all cases, and for comparison what textbooks and small frameworks do."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from support import fused_oracles  # noqa: F401  (enrols its formulas)
from support.contract import CHECKS, Subject, of_node
from support.forward_oracles import assert_forward
from support.node_cases import NODES

from nl_nodes.verify import sample_check

# A check takes milliseconds: whatever is still at it after so many seconds loops.
SECONDS = 30.0
STEP = 1e-4


class Loops(BaseException):
    """A mutant that does not come to an end; no `except Exception` on its way stops it."""


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raise `Loops` in the main thread after so many seconds."""

    def ring(*_: object) -> None:
        raise Loops

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def output_is_the_formulas(subject: Subject) -> None:
    assert_forward(subject.graph, subject.feeds)


def gradient_along_directions(subject: Subject) -> None:
    for residual in sample_check(subject.graph, subject.feeds, subject.dy, np.random.default_rng(3)):
        assert residual.value <= 1e-10, residual


def killer(users: Iterable[str]) -> str:
    """The first check that fails on a case of these nodes, "error" or "loop" where it doesn't get that far, or ""."""
    try:
        with alarm(SECONDS):
            # The quickest checks first, on every case: they kill most.
            for check in (output_is_the_formulas, gradient_along_directions, *CHECKS):
                for case in (case for name in users for case in NODES[name].cases()):
                    try:
                        check(of_node(case))
                    except AssertionError:
                        return check.__name__
    except Loops:
        return "loop"
    except Exception:
        return "error"
    return ""


def textbook(users: Iterable[str]) -> bool:
    """Whether one case, an upstream of ones and a mean difference below 1e-3 notice."""
    return _notices(users, lambda found, expected: bool(np.mean(np.abs(found - expected)) < 1e-3))


def elementwise(users: Iterable[str]) -> bool:
    """Whether one case, an upstream of ones and `allclose` with rtol 1e-4, atol 1e-5 notice."""
    return _notices(users, lambda found, expected: np.allclose(found, expected, rtol=1e-4, atol=1e-5))


def _notices(users: Iterable[str], agree: Callable[[Any, Any], bool]) -> bool:
    try:
        with alarm(SECONDS), np.errstate(all="ignore"):
            case = next((case for name in users for case in NODES[name].cases() if not case.surrogate), None)
            if case is None:
                return False
            subject = of_node(case)
            expected = _differences(subject)
            found = subject.gradients(dy=np.ones_like(subject.dy))
            return not all(agree(found[name], grad) for name, grad in expected.items())
    except (Exception, Loops):
        return True


def _differences(subject: Subject) -> dict[str, np.ndarray]:
    """Central differences of the output's sum."""
    found = {}
    for name, leaf in subject.graph.leaves.items():
        if leaf.trainable:
            found[name] = np.zeros_like(subject.feeds[name])
            for index in np.ndindex(found[name].shape):
                up, down = (_sum(subject, name, index, h) for h in (STEP, -STEP))
                found[name][index] = (up - down) / (2 * STEP)
    return found


def _sum(subject: Subject, name: str, index: tuple[int, ...], h: float) -> float:
    moved = subject.feeds[name].copy()
    moved[index] += h
    return float(np.sum(subject.graph.run(**{**subject.feeds, name: moved}).results[0]))
