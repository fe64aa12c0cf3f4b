"""The registry of planted errors, and helpers to plant them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from nl_layers.schedules import Cosine, Schedule
from nl_training.training.regularization import Regularization

IMAGES: dict[str, Any] = {"name": "cnn8", "width": 16, "input_shape": (1, 7, 7), "classes": 4}
NORMALISED = IMAGES | {"batch_norm": True, "dropout": 0.3}
ROWS: dict[str, Any] = {"name": "mlp", "hidden": (5, 5, 5), "input_shape": (1, 4, 4), "classes": 3}

STACK = ExitStack()
"""Contexts that stay open until the end of the process."""


@dataclass(frozen=True)
class Plant:
    """An error that is planted at run time.

    Attributes:
        link: the kind of the link that refuses it; "" if it is accepted.
        function: plants the error; its docstring describes it.
        network: the options of the verified network.
        images: transforms the training images.
        weight_decay: the L2 penalty's rate.
        optimizer: the class of the optimizer.
        schedule: the learning rate schedule.
        regularization: that of the training loop.
    """

    link: str
    function: Callable[[], None]
    network: dict[str, Any]
    images: Callable[[Any], Any] = lambda x: x
    weight_decay: float = 0.0
    optimizer: str = "Adam"
    schedule: Schedule = field(default_factory=Cosine)
    regularization: Regularization = field(default_factory=Regularization)

    @property
    def title(self) -> str:
        """The name as words."""
        return self.function.__name__.replace("_", " ")

    @property
    def what(self) -> str:
        """The description, for the tables of docs/verification.md."""
        return " ".join((self.function.__doc__ or "").split())


PLANTS: dict[str, Plant] = {}
"""Errors that `verify=strict` refuses."""

LIMITS: dict[str, Plant] = {}
"""Errors that `verify=strict` accepts."""


def plant(link: str, network: dict[str, Any], **options: Any) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Register a function as an error that a link refuses, or as an accepted one if the link is ""."""

    def register(function: Callable[[], None]) -> Callable[[], None]:
        (PLANTS if link else LIMITS)[function.__name__] = Plant(link, function, network, **options)
        return function

    return register


def wrap(owner: Any, name: str, change: Callable[..., Any]) -> None:
    """Replace a function by `change(right, *arguments)`, where `right` is the original."""
    right = getattr(owner, name)
    setattr(owner, name, lambda *a, **k: change(right, *a, **k))


def scaled(found: Any, factor: float = 1.001) -> Any:
    """Return a gradient, or a tuple of gradients, times a factor."""
    return tuple(None if f is None else f * factor for f in found) if isinstance(found, tuple) else found * factor


def backward_wrong(node: type, when: Callable[[Any], bool], factor: float = 1.001) -> None:
    """Scale the gradients of a node's inputs if `when` holds for its upstream gradient."""

    def change(right, self, ctx, dy):
        found = right(self, ctx, dy)
        return scaled(found, factor) if when(dy) else found

    wrap(node, "backward", change)


def in_workers(function: str, wrong: str) -> None:
    """Let worker processes, which do not import this module, run `wrong` after a NumPy function."""
    folder = Path(mkdtemp())
    folder.joinpath("sitecustomize.py").write_text(
        "import numpy as np\n"
        "from importlib import import_module\n"
        "executor = import_module('nl_nodes.runtime.executor')\n"
        "right = executor.function\n"
        "def wrong(name):\n"
        "    def call(a, b, out):\n"
        f"        np.{function}(a, b, out)\n"
        f"        {wrong}\n"
        f"    return call if name == '{function}' else right(name)\n"
        "executor.function = wrong\n"
    )
    sys.path.insert(0, str(folder))
