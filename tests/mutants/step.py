"""The functions of a training step, found by profiling the training of some networks."""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Iterator
from itertools import cycle
from types import FrameType, FunctionType
from typing import Any

import numpy as np

from mutants.mutator import Mutant, mutants
from mutants.targets import Target, resolve
from nl_layers import optimizers
from nl_layers.schedules import Constant, Cosine, Exponential, OneCycle, ReduceOnPlateau, Schedule, Step
from nl_models import build
from nl_nodes import Device
from nl_nodes.compiler import Rule
from nl_training.data import Dataset, Normalization, Split, batches, epoch_order
from nl_training.training.trainer import Trainer, TrainOptions

PACKAGES = ("nl_nodes.", "nl_layers.", "nl_models.", "nl_training.")
# Nodes have their own gate; the other modules here deal with the machine: cores, memory, signals, BLAS threads.
EXCLUDED = (
    "nl_nodes.nodes.",
    "nl_nodes.compiler.fused.",
    "nl_nodes.platform",
    "nl_nodes.signals",
    "nl_nodes.device.blas",
    "nl_nodes.device.product_cut",
    "nl_models.fork",
    "nl_layers.containers:_affine",  # these three are cases of tests
    "nl_layers.containers:_block",
    "nl_layers.containers:_projection",
    "nl_nodes.compiler.rewrite.rules:per_channel",  # runs only when its module is imported
)
# Included entirely: worker processes call these, unseen by this process's profiler; or no training below uses them.
INCLUDED = (
    "nl_nodes.curvature.products",
    "nl_nodes.curvature.spectrum",
    "nl_nodes.compiler.rewrite.rules",
    "nl_nodes.runtime.cut",
    "nl_nodes.runtime.worker_main",
    "nl_nodes.runtime.protocol",
    "nl_nodes.runtime.shared_memory",
    "nl_layers.activations",
    "nl_layers.losses",
    "nl_layers.containers",
    "nl_models.resnet",
)
MAPS: dict[str, Any] = {"name": "cnn3", "width": 8, "input_shape": (1, 8, 8), "classes": 4}
NETWORKS: list[dict[str, Any]] = [
    MAPS,
    MAPS | {"batch_norm": True, "dropout": 0.3},
    {"name": "mlp", "hidden": (5, 5), "input_shape": (1, 4, 4), "classes": 3, "activation": "sigmoid"},
]
DEVICES: list[dict[str, Any]] = [
    {"compile": False},
    {"threads": 2, "workers": "threads"},
    {"threads": 2, "workers": "processes"},
]
SCHEDULES: tuple[Schedule, ...] = (
    Constant(), Step(every=1, gamma=0.5), Cosine(warmup=0.5), OneCycle(), Exponential(), ReduceOnPlateau(),
)  # fmt: skip


def step_targets() -> dict[str, Target]:
    """Return every function that takes part in a training step, by `module:qualified name`."""
    found = {f"{module}:{name}" for module, name in _called() if "<" not in name}
    found.update(name for module in INCLUDED for name in _functions(module))
    names = (name for name in sorted(found) if name.startswith(PACKAGES) and not name.startswith(EXCLUDED))
    return {name: Target(name) for name in names if isinstance(resolve(name), FunctionType)}


def step_mutants(target: Target) -> list[Mutant]:
    """Return the mutants of such a function.

    Operators on attributes apply to layers only, whose attributes are mostly numbers. Other objects have attributes of
    many types, and exchanging these raises at once.
    """
    with_settings = target.name.startswith("nl_layers.")
    return [m for m in mutants(target) if with_settings or not m.mutation.startswith("settings_")]


def _functions(module: str) -> Iterator[str]:
    loaded = importlib.import_module(module)
    for owner in (loaded, *(c for c in vars(loaded).values() if isinstance(c, type) and c.__module__ == module)):
        for thing in vars(owner).values():
            thing = thing.replacement if isinstance(thing, Rule) else thing
            # Not by `__module__`, which the methods have that `dataclass` writes.
            if isinstance(thing, FunctionType) and thing.__code__.co_filename == loaded.__file__:
                yield f"{module}:{thing.__qualname__}"


def _called() -> set[tuple[str, str]]:
    called = set()

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            called.add((frame.f_globals.get("__name__", ""), frame.f_code.co_qualname))

    kinds = [k for k in vars(optimizers).values() if isinstance(k, type) and issubclass(k, optimizers.Optimizer)]
    kinds.remove(optimizers.Optimizer)
    for device in DEVICES:
        for number, network in enumerate(NETWORKS):
            net = build(device=Device(**device), **network)
            some = kinds if number == 2 else kinds[-1:]
            settings = zip(some, cycle(SCHEDULES), strict=False)
            trainers = [_trainer(net, kind(0.01), schedule) for kind, schedule in settings]
            threading.setprofile(note)
            sys.setprofile(note)
            try:
                for trainer in trainers:
                    order = epoch_order(len(trainer.data.train), 0, 1)
                    for x, t in batches(trainer.data.train, 8, order):
                        trainer._enqueue(x, t)
                        trainer._report()
            finally:
                sys.setprofile(None)
                threading.setprofile(None)  # type: ignore[arg-type]
    return called


def _trainer(net: Any, rule: Any, schedule: Any) -> Trainer:
    rng = np.random.default_rng(0)
    train = Split(rng.standard_normal((11, *net.input_shape)), rng.integers(0, net.classes, 11))
    scaling, classes = Normalization.scaling(1.0, net.input_shape[0]), tuple(map(str, range(net.classes)))
    data = Dataset("step", train, None, train, classes, scaling, "")
    return Trainer(net, rule, schedule, data, TrainOptions(batch_size=8), 0.01)
