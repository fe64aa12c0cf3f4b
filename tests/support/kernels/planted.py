"""An executor of kernels with a planted fault."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from nl_nodes.runtime.call import Call
from support.kernels.executor import KernelExecutor

Plant = Callable[[list[Call]], list[Call]]


class Planted(KernelExecutor):
    """Runs the calls of a plan after changing them.

    Args:
        plant: returns the calls with a fault.
        sanitized: see `KernelExecutor`.
    """

    def __init__(self, plant: Plant, sanitized: bool = False) -> None:
        super().__init__(sanitized)
        self.plant = plant

    def load(self, calls: Sequence[Sequence[Call]]) -> Any:
        """Change the calls, and load them."""
        return super().load([self.plant(list(own)) for own in calls])


def rewritten(pattern: str, text: str, number: int = 0) -> Plant:
    """Return a plant that replaces one match of a pattern in the kernels' text, of all kernels that have one."""

    def plant(calls: list[Call]) -> list[Call]:
        return [(name, (_changed(args[0]), *args[1:]) if name == "kernel" else args) for name, args in calls]

    def _changed(source: Any) -> Any:
        matches = [*re.finditer(pattern, source.text)]
        if len(matches) <= number:
            return source
        begin, end = matches[number].span()
        return replace(source, text=source.text[:begin] + matches[number].expand(text) + source.text[end:])

    return plant


def without(number: int) -> Plant:
    """Return a plant that leaves out a call."""
    return lambda calls: calls[:number] + calls[number + 1 :]


BESIDE_READ = rewritten(r"(= p\d+\[\w+)\]", r"\1 + 1]")
"""Each kernel reads the neighbour of an element that it should read."""

BESIDE_WRITTEN = rewritten(r"(\n +p\d+\[\w+)\] =", r"\1 + 1] =")
"""Each kernel writes the neighbour of an element that it should write."""
