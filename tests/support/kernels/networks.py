"""Networks through kernels beside networks through NumPy."""

from __future__ import annotations

import numpy as np

from nl_models import Network
from support.kernels.comparison import graph_error
from support.kernels.executor import KernelExecutor


def network_error(net: Network, batch: int, train: bool = True, kernels: KernelExecutor | None = None) -> float:
    """Return the largest distance of a network's results, gradients and updates from NumPy's, as `largest_error`."""
    rng = np.random.default_rng(0)
    for name in net.params:
        net.params[name][...] += 0.02 * rng.standard_normal(net.params[name].shape)
    x = rng.standard_normal((batch, *net.input_shape)).astype(net.device.dtype)
    feeds = {"x": x, "t": rng.integers(0, net.classes, batch)}
    feeds = feeds if train else {"x": feeds["x"]}
    return graph_error(net.wire(batch, train), feeds, dict(net._grads) if train else None, kernels)
