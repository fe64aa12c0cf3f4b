"""Copies of a network to compare with it: in float64, node by node or compiled; on its GPU in float64, or call by call.

Node by node, large batches run in slices.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from nl_models import Network
from nl_nodes import Device, IndexMask
from nl_nodes.runtime.cuda import CudaExecutor
from nl_nodes.runtime.cut import ProductCut
from nl_nodes.verify.directional import Term
from nl_training.verification.points import NotComparable

# Batch normalization needs more images for its statistics.
IMAGES, IMAGES_NORMALISED = 2, 8
MEMORY = 2**33
"""The most bytes for a pass node by node in complex128; larger batches are run in slices."""


def twin(net: Network) -> Network:
    """Return a copy of the network in float64 on the CPU that runs node by node, with the same state."""
    return net.on(Device("cpu", dtype="float64", compile=False))


def compiled_twin(net: Network) -> Network:
    """Return such a copy, but compiled if `net` is, for the same number of workers, which are threads."""
    return net.on(Device(dtype="float64", compile=net.device.compiles, threads=workers(net), workers="threads"))


def gpu_twin(net: Network) -> Network:
    """Return a copy in float64 on the same GPU."""
    device = net.device
    return net.on(Device(device.name, "float64", compile=device.compile, index=device.index))


def one_by_one(net: Network) -> Network:
    """Return a copy on the same GPU that launches each call of a plan by itself; the plan of the network exists."""
    device = net.device
    copy = net.on(Device(device.name, device.dtype, index=device.index, tf32=device.tf32, debug=True))
    ours, theirs = device.executor, copy.device.executor
    if isinstance(ours, CudaExecutor) and isinstance(theirs, CudaExecutor):
        # Other algorithms of products give other bits, and without a cache folder each executor finds its own.
        theirs.algorithms.update(ours.algorithms.state())
    return copy


def gpu_of(net: Network) -> str:
    """Return the name of the GPU that a network is on, "" where it is on none."""
    card = net.device.backend.card
    return "" if card is None else card.kind


@contextmanager
def unchanged(net: Network) -> Iterator[None]:
    """Restore a network's weights, running statistics and number of passes at the end."""
    state, passes = net.state_dict(), net.passes
    try:
        yield
    finally:
        net.load_state_dict(state)
        net.passes = passes


def workers(net: Network) -> int:
    """Return the number of workers for which a network's passes are compiled."""
    return net.device.executor.count if net.device.compiles else 1


def product_cut(net: Network) -> ProductCut | None:
    """Return how a network's plans cut large matrix products, if at all."""
    return net.device.executor.product_cut if net.device.compiles else None


def batch_of(net: Network) -> int:
    """Return the batch size for checks that do not depend on it."""
    return IMAGES_NORMALISED if net.wire(IMAGES, train=True).updates else IMAGES


def passes_differ(net: Network) -> bool:
    """Return whether consecutive passes differ, because of dropout masks or running statistics."""
    graph = net.wire(batch_of(net), train=True)
    return bool(graph.updates) or any(isinstance(node, IndexMask) for node in graph.order)


def slices(reference: Network, x: Any, t: Any) -> Iterator[tuple[Any, Any, float]]:
    """Split a batch into slices of at most `MEMORY` bytes each: images, labels, and share of the mean loss.

    Raises:
        NotComparable: if a batch is too large but cannot be split, since its results depend on all images together.
    """
    count, small = len(x), batch_of(reference)
    each = memory_of(reference, small) // small
    most = max(MEMORY // each, 1)
    if count > most and passes_differ(reference):
        raise NotComparable(f"{count} images at once need {count * each / 2**30:.0f} GiB")
    for start in range(0, count, most):
        part = x[start : start + most]
        yield part, t[start : start + most], len(part) / count


def loss_terms(reference: Network, x: Any, t: Any, passes: int = 0) -> list[Term]:
    """Return a batch's mean loss as a sum over its slices, each a graph that runs node by node.

    Args:
        reference: a network from `twin`.
        x: images (N, C, H, W), float64.
        t: labels (N,) or rows (N, classes).
        passes: the index of the pass, which determines the dropout masks.
    """
    terms: list[Term] = []
    for images, labels, share in slices(reference, x, t):
        graph = reference.wire(len(images), train=True, rows=t.ndim == 2)
        graph.passes = passes
        terms.append((graph, {"x": images, "t": labels}, share))
    return terms


def memory_of(net: Network, count: int) -> int:
    """Return the bytes of the outputs of all nodes for `count` images, in complex128."""
    shapes = net.wire(count, train=True).shapes({"x": (count, *net.input_shape), "t": (count,)})
    return sum(16 * int(np.prod(shape)) for shape in shapes.values())
