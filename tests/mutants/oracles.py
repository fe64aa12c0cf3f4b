"""Test oracles for mutants of nodes: all checks on all cases, and two simpler gradient checks for comparison."""

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
from support.contract import CHECKS, Subject, gradient_along_directions, graph_of, of_node
from support.forward_oracles import assert_formulas, formulas
from support.fused_contract import FUSED_CHECKS
from support.node_cases import FUSED_NODES, NODES
from support.not_finite import non_finite_values_match

from mutants.memory import strict_memory
from nl_nodes.cases import Case
from nl_nodes.graph import Pass

# Timeout for the checks of one mutant; a check takes milliseconds.
SECONDS = 30.0
STEP = 1e-4


BoundCheck = tuple[Callable[..., None], tuple[Any, ...]]
"""A check and its arguments."""


class MutantTimeout(BaseException):
    """The mutant did not terminate in time; a BaseException, so that no `except Exception` catches it."""


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raise `MutantTimeout` in the main thread after `seconds`."""

    def ring(*_: object) -> None:
        raise MutantTimeout

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@dataclass(frozen=True)
class PreparedCase:
    """A case with expected results from the original code, so that one pass of a mutant can be checked.

    Attributes:
        case: the case.
        subject: the case with its inputs.
        outputs: the expected outputs, from the formulas.
        gradients: the expected gradients, from the original code, which agree with the complex step along directions.
    """

    case: Case
    subject: Subject
    outputs: list[np.ndarray]
    gradients: dict[str, np.ndarray]

    def fresh_subject(self) -> Subject:
        """Return a new subject, with its graph built by the code installed now."""
        feeds = {name: x.copy() for name, x in self.subject.feeds.items()}
        return replace(self.subject, graph=graph_of(self.case), feeds=feeds, dy=self.subject.dy.copy())


@cache
def prepared_cases(node: str) -> list[PreparedCase]:
    """Return the prepared cases of a node; the first call must come before a mutant is installed."""
    return [_prepare(case) for case in NODES[node].cases()]


def _prepare(case: Case) -> PreparedCase:
    s = of_node(case)
    gradient_along_directions(s)
    return PreparedCase(case, s, formulas(s.graph, s.feeds), s.gradients())


def output_matches_formula(case: PreparedCase, run: Pass) -> None:
    assert_formulas(run.graph, case.outputs, run.results)


def gradient_matches_original(case: PreparedCase, run: Pass) -> None:
    for name, grad in run.backward(case.subject.dy.copy()).items():
        expected = case.gradients[name]
        assert np.all(np.abs(grad - expected) <= 1e-10 * np.abs(expected).max(initial=0.0)), name


def killer(users: Iterable[str]) -> str:
    """Return the name of the first check that fails on a case of these nodes, "error", "timeout" or ""."""
    cases = [case for name in users for case in prepared_cases(name)]
    fused = [case for name in users if name in FUSED_NODES for case in prepared_cases(name)]
    points = ((non_finite_values_match, (name,)) for name in users)
    return _first_failure(chain(_quick(cases), points, _slow(fused, FUSED_CHECKS), _slow(cases, CHECKS)))


def quick_killer(users: Iterable[str]) -> str:
    """Return the same for the checks of outputs and gradients only."""
    return _first_failure(_quick([case for name in users for case in prepared_cases(name)]))


def _first_failure(checks: Iterable[BoundCheck]) -> str:
    try:
        with alarm(SECONDS), strict_memory():
            for check, arguments in checks:
                try:
                    check(*arguments)
                except AssertionError:
                    return check.__name__
    except MutantTimeout:
        return "timeout"
    except Exception:
        return "error"
    return ""


def _quick(cases: list[PreparedCase]) -> Iterator[BoundCheck]:
    """Yield the comparisons with the expected results, which kill most mutants."""
    for case in cases:
        subject = case.fresh_subject()
        run = subject.graph.run(**subject.feeds)
        yield output_matches_formula, (case, run)
        yield gradient_matches_original, (case, run)


def _slow(cases: list[PreparedCase], checks: Iterable[Callable[[Subject], None]]) -> Iterator[BoundCheck]:
    for check in checks:
        for case in cases:
            yield check, (case.fresh_subject(),)


def textbook(users: Iterable[str]) -> bool:
    """Return whether a textbook's check kills the mutant: one case, upstream of ones, mean difference below 1e-3."""
    return _kills(users, lambda found, expected: bool(np.mean(np.abs(found - expected)) < 1e-3))


def elementwise(users: Iterable[str]) -> bool:
    """Return whether `allclose` kills the mutant: one case, upstream of ones, rtol 1e-4, atol 1e-5."""
    return _kills(users, lambda found, expected: np.allclose(found, expected, rtol=1e-4, atol=1e-5))


def _kills(users: Iterable[str], agree: Callable[[Any, Any], bool]) -> bool:
    try:
        with alarm(SECONDS), np.errstate(all="ignore"):
            case = next((case for name in users for case in NODES[name].cases() if not case.surrogate), None)
            if case is None:
                return False
            subject = of_node(case)
            expected = _differences(subject)
            found = subject.gradients(dy=np.ones_like(subject.dy))
            return not all(agree(found[name], grad) for name, grad in expected.items())
    except (Exception, MutantTimeout):
        return True


def _differences(subject: Subject) -> dict[str, np.ndarray]:
    """Return central differences of the sum of the output."""
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
