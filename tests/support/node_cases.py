"""The registered nodes, their cases, and a node that counts its calls."""

import pytest

from nl_nodes import AddConst, Node
from nl_nodes.verify import central, complex_step

NODES = {name: node for name, node in sorted(Node.registry.items()) if node.__module__.startswith("nl_nodes.")}
FUSED_NODES = {name: node for name, node in NODES.items() if node.__module__.startswith("nl_nodes.compiler.")}


def cases_of(registered: dict) -> list:
    """Return every case of the registered classes as pytest parameters."""
    return [pytest.param(case, id=f"{n}-{case.label}") for n, one in registered.items() for case in one.cases()]


def checks_of(registered: dict, thorough: bool = True) -> list:
    """Return every case with every applicable oracle; central differences do not apply to surrogate gradients.

    Unless thorough, they are taken in every fifth case of a fused node: with Conv in the first one of each algorithm.
    """
    return [
        pytest.param(case, oracle, id=f"{name}-{case.label}-{oracle.__name__}")
        for name, one in registered.items()
        for number, case in enumerate(one.cases())
        for oracle in (complex_step, central)
        if oracle is complex_step or not (case.surrogate or (name in FUSED_NODES and number % 5 and not thorough))
    ]


NODE_CASES = cases_of(NODES)
FUSED_NODE_CASES = cases_of(FUSED_NODES)


class Counting(AddConst, abstract=True):
    """A node that counts its forward and backward calls."""

    def __init__(self, x) -> None:
        super().__init__(x, 0)
        self.calls = [0, 0]

    def forward(self, ctx, *inputs):
        self.calls[0] += 1
        return super().forward(ctx, *inputs)

    def backward(self, ctx, dy):
        self.calls[1] += 1
        return super().backward(ctx, dy)
