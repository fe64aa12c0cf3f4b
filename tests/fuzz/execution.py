"""Execution of a program on a compiled network and on the reference, with a comparison after each step."""

from __future__ import annotations

import faulthandler
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import permutations
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Barrier, Thread
from typing import Any

import numpy as np
from fuzz.calls import CALLS, OPTIMIZERS, Model, Results
from fuzz.drawn import MODELS, Made, Program, Step
from support.random_networks import Stack, random_network

from nl_nodes import Device

LIMIT = 1e-9
"""Of each array's largest value."""
NOTHING = 1e-5
"""Below this, values are the rounding of larger ones that cancel out."""
HANG = 120  # seconds for one program, of which most take a thousandth
FIRST_TIME = 10_000  # events inside a call that compiles, above which none is interrupted


class Small(Stack):
    """Networks of a few numbers each, whose plans are made fast."""

    sides = (4, 7)
    filters = (2, 3)
    blocks = (1, 2)


@cache
def device(workers: str) -> Device:
    """Return one device for all programs, so that they share its workers."""
    if workers == "reference":
        return Device(dtype="float64", compile=False)
    return (
        Device(dtype="float64", threads=1) if workers == "one" else Device(dtype="float64", threads=2, workers=workers)
    )


class Side:
    """The compiled or the reference models of a program: the first one, and the copies that the program makes."""

    def __init__(self, program: Program, workers: str, folder: Path) -> None:
        folder.mkdir()
        net = random_network((program.seed, 0), device(workers), Small)
        self.models = [Model(net, OPTIMIZERS[program.optimizer](), program.batches, folder)]

    def run(self, made: Made) -> Results:
        """Make one call."""
        return CALLS[made.name](self.models[made.model % len(self.models)], np.random.default_rng(made.seed))

    def copy(self, way: str, number: int) -> None:
        """Add a copy of a model, in place of the last one if the maximum is reached."""
        del self.models[MODELS - 1 :]
        self.models.append(self.models[number % len(self.models)].copied(way))

    def state(self) -> Results:
        """The state of all models."""
        return {f"model {i}: {name}": a for i, model in enumerate(self.models) for name, a in model.state().items()}


class Different(AssertionError):
    """The compiled network differs from the reference."""


def run_program(program: Program, record: list[str] | None = None) -> None:
    """Run a program on both sides and compare each step's results and the state after it.

    Args:
        program: the program.
        record: gets a line for each step, with the order of concurrent calls.

    Raises:
        Different: at the first step that differs.
    """
    record = [] if record is None else record
    with TemporaryDirectory() as folder, _ctrl_c(), _watched(program):
        sides = [Side(program, workers, Path(folder, workers)) for workers in (program.workers, "reference")]
        for step in program.steps:
            record.append(str(step))
            record[-1] += _both(step, *sides)


def _both(step: Step, compiled: Side, reference: Side) -> str:
    """Make a step on both sides; return which outcome it had if several are correct."""
    if not step.calls:
        for side in (compiled, reference):
            side.copy(step.how, step.at)
        _compare(compiled.state(), reference.state())
        return ""
    results, orders = RUNNERS[step.how](step, compiled)
    state, before = compiled.state(), _Snapshot(reference)
    for order in orders:
        try:
            expected = [reference.run(step.calls[i]) for i in order]
            for i, one in zip(order, expected, strict=True):
                if results[i] is not None:
                    _compare(results[i], one)
            _compare(state, reference.state())
        except Different as error:
            different = error
            before.restore()
        else:
            return "" if len(orders) == 1 else f": as {[step.calls[i].name for i in order]}"
    raise different


Outcome = tuple[list[Any], list[tuple[int, ...]]]
"""The results of a step's calls, None where they were cut off, and the orders in which they may have happened."""


def _plain(step: Step, side: Side) -> Outcome:
    return [side.run(step.calls[0])], [(0,)]


def _threads(step: Step, side: Side) -> Outcome:
    """Make the calls concurrently, each in its own thread."""
    results: list[Any] = [None] * len(step.calls)
    barrier = Barrier(len(step.calls))

    def one(number: int) -> None:
        try:
            barrier.wait()
            results[number] = side.run(step.calls[number])
        except BaseException as error:
            results[number] = error

    threads = [Thread(target=one, args=(number,)) for number in range(len(step.calls))]
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(usual)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results, list(permutations(range(len(step.calls))))


def _interrupted(step: Step, side: Side) -> Outcome:
    """Make the calls, the last one with a SIGINT at one of the points where Python checks for signals.

    The first call of its kind spends most of its time compiling. If the same call was made before, its events are
    counted, so that all parts of it are equally likely to be interrupted.
    """
    results: list[Any] = []
    number = int(FIRST_TIME**step.at)
    if len(step.calls) > 1:
        first, again, _ = step.calls
        counted = _Events(0)
        results += [side.run(first), counted.during(lambda: side.run(again))]
        number = 1 + int(counted.seen * step.at)
    results.append(_Events(number).during(lambda: side.run(step.calls[-1])))
    whole = tuple(range(len(results)))
    return results, [whole] if results[-1] is not None else [whole[:-1], whole]


class _Events:
    """Counts the points of a call where Python checks for signals, at function entry and exit, and sends SIGINT at one.

    Lines are no such points: Python never checks on the last line of a lock's `with` block.

    Attributes:
        seen: number of points so far.
    """

    def __init__(self, number: int) -> None:
        self.number, self.seen = number, 0

    def during(self, call: Callable[[], Results]) -> Results | None:
        """Return the call's results, or None if it was interrupted."""
        try:
            sys.setprofile(self._hook)
            try:
                return call()
            finally:
                sys.setprofile(None)
        except KeyboardInterrupt:
            return None

    def _hook(self, frame: Any, event: str, argument: Any) -> None:
        if event in ("call", "return", "c_return"):
            self.seen += 1
            if self.seen == self.number:
                signal.raise_signal(signal.SIGINT)


RUNNERS: dict[str, Callable[[Step, Side], Outcome]] = {
    "plain": _plain, "thread": _threads, "together": _threads, "interrupt": _interrupted,
}  # fmt: skip


class _Snapshot:
    """A saved state of the reference, to restore before another order of calls is tried."""

    def __init__(self, side: Side) -> None:
        self.nets = [model.net for model in side.models]
        self.states = [(net.passes, net.state_dict()) for net in self.nets]

    def restore(self) -> None:
        for net, (passes, state) in zip(self.nets, self.states, strict=True):
            net.load_state_dict(state)
            net.passes = passes


def _compare(found: Results, expected: Results) -> None:
    if found.keys() != expected.keys():
        raise Different(f"{sorted(found)} are there, not {sorted(expected)}")
    for name, value in expected.items():
        if found[name].shape != value.shape:
            raise Different(f"{name}: {found[name].shape}, not {value.shape}")
        apart = np.abs(found[name] - value).max(initial=0)
        scale = max(np.abs(value).max(initial=0), NOTHING)
        if not apart <= LIMIT * scale:
            raise Different(f"{name} is off by {apart / scale:.1e}")


@contextmanager
def _ctrl_c() -> Iterator[None]:
    """Install Python's default handler for SIGINT within the block."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _watched(program: Program) -> Iterator[None]:
    """End this process and print the stack of each thread if the program hangs."""
    faulthandler.dump_traceback_later(HANG, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
