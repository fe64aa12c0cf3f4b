"""Random programs of calls on networks: compiled networks compared with the reference, in double precision.

    python tests/fuzz/programs.py --count 10000            seeds 0 to 9999
    python tests/fuzz/programs.py --seed 123 --count 1     one program

A program makes its calls directly, from another thread, concurrently from several threads, or interrupted by Ctrl-C at
a random point. The reference makes the same calls one after the other. If several outcomes are correct, such as an
order of concurrent calls, or whether an interrupted call took effect, the compiled network must match one of them; the
matching one is part of the program's record. Any difference above `LIMIT` is a finding; its program is shrunk and
printed.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from itertools import permutations
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Barrier, Thread
from typing import Any

import numpy as np

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from fuzz.calls import CALLS, OPTIMIZERS, SIDE_BY_SIDE, WHOLE, Model, Results
from support.random_networks import Stack, random_network

from nl_nodes import Device

LIMIT = 1e-9
"""Of each array's largest value."""
NOTHING = 1e-5
"""Below this, values are the rounding of larger ones that cancel out."""
WORKERS = {"one": 6, "threads": 6, "processes": 3}
"""How often each kind of workers is drawn; plans for processes take longest to make."""
HANG = 120  # seconds for one program, of which most take a thousandth
FIRST_TIME = 10_000  # events inside a call that compiles, above which none is interrupted
CHUNK = 250  # programs a process
MODELS = 3  # that a program has at most


class Small(Stack):
    """Networks of a few numbers each, whose plans are made fast."""

    sides = (4, 7)
    filters = (2, 3)
    blocks = (1, 2)


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


def failure(program: Program) -> str:
    """Return the error and record of a program, or an empty text if it passes."""
    record: list[str] = []
    try:
        run_program(program, record)
    except Exception as error:
        lines = [f"    {line}" for line in record]
        return "\n".join([f"{type(error).__name__}: {error}", *lines])
    return ""


def shrunk(program: Program, tries: int = 3) -> Program:
    """Return the program without steps that its failure does not need; programs are tried several times each."""
    number = len(program.steps) - 1
    while number >= 0:
        steps = program.steps[:number] + program.steps[number + 1 :]
        fewer = replace(program, steps=steps)
        if any(failure(fewer) for _ in range(tries)):
            program = fewer
        number -= 1
    return program


def told(program: Program, what: str) -> str:
    """Return a failing program as readable text."""
    net = random_network((program.seed, 0), device("reference"), Small)
    layers = ", ".join(type(layer).__name__ for layer in net.layers)
    head = (
        f"seed {program.seed}, workers {program.workers}, batches {program.batches}, input {net.input_shape}: {layers}"
    )
    return f"{head}\n  {what}"


def inside(seeds: range) -> int:
    """Run the programs of these seeds in this process; return the number of failures."""
    bad = 0
    for seed in seeds:
        print(f"seed {seed}", flush=True)
        program = draw_program(seed)
        if what := failure(program):
            bad += 1
            small = shrunk(program)
            print(f"FINDING {told(small, failure(small) or what)}", flush=True)
    return bad


def outside(seeds: range) -> int:
    """Run these seeds in a new process and print its output; return the number of failures, hangs and crashes."""
    command = [sys.executable, __file__, "--inside", "--seed", str(seeds.start), "--count", str(len(seeds))]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said = re.sub(r"^seed \d+\n", "", done.stdout, flags=re.MULTILINE)
    found = said.count("FINDING")
    if done.returncode not in (0, 1) or (done.returncode and not found):
        last = re.findall(r"^seed (\d+)$", done.stdout, flags=re.MULTILINE)[-1:]
        said += f"FINDING the process ended with code {done.returncode} at seed {last}\n"
        found += 1
    print(said, end="", flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="programs")
    parser.add_argument("--seed", type=int, default=0, help="the first one's")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    seeds = range(asked.seed, asked.seed + asked.count)
    if asked.inside:
        return min(inside(seeds), 1)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        chunks = [seeds[i : i + CHUNK] for i in range(0, len(seeds), CHUNK)]
        found = sum(pool.map(outside, chunks))
    print(f"{len(seeds):,} programs, {found} findings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
