"""Counts of the kernels and matrix products of a training step on a GPU; counting needs none."""

from __future__ import annotations

from typing import Any

from nl_layers.optimizers import Optimizer
from nl_models import Network
from nl_models.recorded_update import recorded_update
from nl_nodes.compiler import CompileSpec, Update, compile_graph
from nl_nodes.compiler.cuda.check import Counts, count
from nl_nodes.compiler.cuda.memory import group
from nl_nodes.compiler.cuda.values import Program
from nl_nodes.runtime import Executor

COLUMNS = (
    "model", "launches", "products among them", "MB outside products", "MB of products", "GFLOP of products",
    "MB/GFLOP", "update: launches", "update: MB",
)  # fmt: skip


class Counting(Executor):
    """An executor that compiles as for a GPU, counts what it is given last, and runs nothing.

    Args:
        checks: whether passes check that all they give is finite, and end with the optimizer's step.
    """

    chunked = False
    counts: Counts

    def __init__(self, checks: bool) -> None:
        super().__init__()
        self.checks = checks

    def prepare(self, lowered: Any) -> None:
        """Count the kernels that the calls become."""
        program = Program(lowered)
        self.counts = count(program, group(program))

    def load(self, calls: Any) -> None:
        """Load nothing."""

    def run(self, loaded: Any, pass_index: int) -> None:
        """Run nothing."""


def step_counts(net: Network, batch: int, checks: bool = False, update: Update | None = None) -> Counts:
    """Return the counts of forward, loss and backward; the check for values not finite and an update are extra."""
    executor = Counting(checks)
    feeds = {"x": ((batch, *net.input_shape), net.device.dtype), "t": ((batch,), "int64")}
    spec = CompileSpec(feeds, frozenset(feeds), net._grads, update)
    compile_graph(net.wire(batch, train=True), spec, executor)
    return executor.counts


def update_counts(net: Network, optimizer: Optimizer) -> Counts:
    """Return what an optimizer's step adds to the counts of a pass, whatever its batch size."""
    optimizer.begin(net.params, net._grads)
    update = recorded_update(optimizer, net.params, net._grads, 0.0, net.finite_so_far)
    alone, whole = step_counts(net, 2, checks=True), step_counts(net, 2, checks=True, update=update)
    return Counts(whole.launches - alone.launches, whole.products - alone.products, whole.bytes - alone.bytes)


def row(label: str, step: Counts, update: Counts) -> list[str]:
    """Return the cells of a model, in the order of `COLUMNS`."""
    return [
        label,
        str(step.launches),
        str(step.products),
        f"{step.bytes / 1e6:,.1f}",
        f"{step.product_bytes / 1e6:,.1f}",
        f"{step.flops / 1e9:,.2f}",
        f"{step.product_bytes / 1e6 / (step.flops / 1e9):,.0f}",
        str(update.launches),
        f"{update.bytes / 1e6:,.1f}",
    ]
