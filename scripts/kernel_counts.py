"""Counts of the kernels and matrix products of a training step on a GPU; counting needs none."""

from __future__ import annotations

from nl_layers.optimizers import Optimizer
from nl_models import Network
from nl_models.recorded_update import recorded_update
from nl_nodes.compiler import RULES, CompileSpec, Update, rewrite
from nl_nodes.compiler.cuda.check import Counts, count
from nl_nodes.compiler.cuda.memory import group
from nl_nodes.compiler.cuda.values import Program
from nl_nodes.compiler.lower.finite import store_where_finite
from nl_nodes.compiler.plan import lower

COLUMNS = (
    "model", "launches", "products among them", "MB outside products", "MB of products", "GFLOP of products",
    "MB/GFLOP", "update: launches", "update: MB",
)  # fmt: skip


def step_counts(net: Network, batch: int, checks: bool = False, update: Update | None = None) -> Counts:
    """Return the counts of forward, loss and backward.

    Args:
        net: the network.
        batch: the number of images.
        checks: whether to count the check for values that are not finite.
        update: a step of an optimizer to count too; it needs the check.
    """
    feeds = {"x": ((batch, *net.input_shape), net.device.dtype), "t": ((batch,), "int64")}
    spec = CompileSpec(feeds, frozenset(feeds), net._grads, update)
    lowered = lower(rewrite(net.wire(batch, train=True), RULES), spec, workers=1, chunked=False)
    if checks:
        store_where_finite(lowered)
    program = Program(lowered)
    return count(program, group(program))


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
