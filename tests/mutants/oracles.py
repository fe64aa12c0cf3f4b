"""Oracles that kill mutants: all checks on all cases, and for comparison those of textbooks and small frameworks."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain
from typing import Any

import numpy as np
from support import fused_oracles  # noqa: F401  (registers its formulas)
from support.contract import CHECKS, Subject, graph_of, of_node
from support.contract import gradient_is_the_complex_steps as by_element
from support.forward_oracles import assert_formulas, formulas
from support.fused_contract import FUSED_CHECKS
from support.node_cases import FUSED_NODES, NODES
from support.not_finite import values_that_are_not_finite

from mutants.memory import strict_memory
from nl_nodes.cases import Case
from nl_nodes.graph import Pass
from nl_nodes.verify import complex_step, sample_check
from nl_nodes.verify.numeric import units

# A check takes milliseconds: one that takes this many seconds loops.
SECONDS = 30.0
STEP = 1e-4


Step = tuple[Callable[..., None], tuple[Any, ...]]
"""A check and what it is called with."""


class Loops(BaseException):
    """A mutant that does not terminate; a BaseException, so that no `except Exception` catches it."""


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raise `Loops` in the main thread after `seconds`."""

    def ring(*_: object) -> None:
        raise Loops

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@dataclass(frozen=True)
class Exam:
    """A case with what is known of it, from the code as it is: a mutant is judged by it in one pass.

    Attributes:
        case: the case.
        subject: it with its inputs.
        outputs: what the formulas say.
        gradients: what the complex step says, element by element.
    """

    case: Case
    subject: Subject
    outputs: list[np.ndarray]
    gradients: dict[str, np.ndarray]

    def again(self) -> Subject:
        """The subject anew, its graph of the code as it is now."""
        feeds = {name: x.copy() for name, x in self.subject.feeds.items()}
        return replace(self.subject, graph=graph_of(self.case), feeds=feeds, dy=self.subject.dy.copy())


@cache
def exams(node: str) -> list[Exam]:
    """The cases of a node; to be asked for before a mutant is in place."""
    return [_exam(case) for case in NODES[node].cases()]


def _exam(case: Case) -> Exam:
    s = of_node(case)
    gradients = {
        name: np.reshape([complex_step(s.graph, s.feeds, name, d, s.dy) for _, d in units(x)], x.shape)
        for name, x in s.feeds.items()
        if s.graph.leaves[name].trainable
    }
    return Exam(case, s, formulas(s.graph, s.feeds), gradients)


def output_is_the_formulas(exam: Exam, run: Pass) -> None:
    assert_formulas(run.graph, exam.outputs, run.results)


def gradient_is_the_complex_steps(exam: Exam, run: Pass) -> None:
    for name, grad in run.backward(exam.subject.dy.copy()).items():
        expected = exam.gradients[name]
        assert np.all(np.abs(grad - expected) <= 1e-10 * np.abs(expected).max(initial=0.0)), name


def gradient_along_directions(subject: Subject) -> None:
    for residual in sample_check(subject.graph, subject.feeds, subject.dy, np.random.default_rng(3)):
        assert residual.value <= 1e-10, residual


# The complex step through a mutant's own forward, for which the formula was right, goes along directions alone.
MORE = (gradient_along_directions, *(check for check in CHECKS if check is not by_element))


def killer(users: Iterable[str]) -> str:
    """The first check that fails on a case of these nodes, "error" or "loop" where it doesn't get that far, or ""."""
    chosen = [exam for name in users for exam in exams(name)]
    fused = [exam for name in users if name in FUSED_NODES for exam in exams(name)]
    points = ((values_that_are_not_finite, (name,)) for name in users)
    return _first_failure(chain(_quick(chosen), points, _slow(fused, FUSED_CHECKS), _slow(chosen, MORE)))


def quick_killer(users: Iterable[str]) -> str:
    """The same, of outputs and gradients alone."""
    return _first_failure(_quick([exam for name in users for exam in exams(name)]))


def _first_failure(checks: Iterable[Step]) -> str:
    try:
        with alarm(SECONDS), strict_memory():
            for check, arguments in checks:
                try:
                    check(*arguments)
                except AssertionError:
                    return check.__name__
    except Loops:
        return "loop"
    except Exception:
        return "error"
    return ""


def _quick(chosen: list[Exam]) -> Iterator[Step]:
    """What is known beforehand, case by case: it kills most."""
    for exam in chosen:
        subject = exam.again()
        run = subject.graph.run(**subject.feeds)
        yield output_is_the_formulas, (exam, run)
        yield gradient_is_the_complex_steps, (exam, run)


def _slow(chosen: list[Exam], checks: Iterable[Callable[[Subject], None]]) -> Iterator[Step]:
    for check in checks:
        for exam in chosen:
            yield check, (exam.again(),)


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
