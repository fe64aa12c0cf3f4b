"""Copies of a network in float64: one that runs node by node, in slices where memory is short, and one in the form that
trains."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from nl_models import Network
from nl_nodes import Device, IndexMask
from nl_nodes.verify.directional import Term
from nl_training.verification.points import NotComparable

# Batch statistics need some images to be statistics of.
IMAGES, IMAGES_NORMALISED = 2, 8
MEMORY = 2**33
"""Bytes that a pass node by node may take, counted in complex numbers; a larger batch goes through it in slices."""


def twin(net: Network) -> Network:
    """The same network in float64 on the CPU, node by node, with the same weights and running statistics."""
    return net.on(Device("cpu", dtype="float64", compile=False))


def compiled_twin(net: Network) -> Network:
    """The same, but compiled if `net` is, for as many workers; here these are threads."""
    return net.on(Device(dtype="float64", compile=net.device.compiles, threads=workers(net), workers="threads"))


def workers(net: Network) -> int:
    """How many workers a network's passes are recorded for."""
    return net.device.executor.count if net.device.compiles else 1


def batch_of(net: Network) -> int:
    """How many images a network is verified on where any number will do."""
    return IMAGES_NORMALISED if net.wire(IMAGES, train=True).updates else IMAGES


def passes_differ(net: Network) -> bool:
    """Whether a pass differs from the one before: by dropout's mask, or by running statistics."""
    graph = net.wire(batch_of(net), train=True)
    return bool(graph.updates) or any(isinstance(node, IndexMask) for node in graph.order)


def slices(reference: Network, x: Any, t: Any) -> Iterator[tuple[Any, Any, float]]:
    """A batch in slices that fit the memory node by node: images, labels, and the share of the mean loss.

    Raises:
        NotComparable: where a batch that is too large depends on all its images at once.
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
    """A batch's mean loss node by node, as a sum over its slices.

    Args:
        reference: what `twin` gave.
        x: images (N, C, H, W), float64.
        t: labels (N,).
        passes: the index of the pass, which dropout's masks depend on.
    """
    terms: list[Term] = []
    for images, labels, share in slices(reference, x, t):
        graph = reference.wire(len(images), train=True)
        graph.passes = passes
        terms.append((graph, {"x": images, "t": labels}, share))
    return terms


def memory_of(net: Network, count: int) -> int:
    """Return the bytes that the values of all nodes take for `count` images, as complex numbers."""
    shapes = net.wire(count, train=True).shapes({"x": (count, *net.input_shape), "t": (count,)})
    return sum(16 * int(np.prod(shape)) for shape in shapes.values())
