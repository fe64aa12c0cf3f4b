"""Networks through kernels beside networks node by node in NumPy's widest precision."""

from __future__ import annotations

import numpy as np

from nl_models import Network
from support.kernels.comparison import error_beside_exact
from support.kernels.executor import KernelExecutor


def network_error(net: Network, batch: int, train: bool = True, kernels: KernelExecutor | None = None) -> float:
    """Return the largest distance of results, gradients and updates from the exact ones, as `largest_error`."""
    rng = np.random.default_rng(0)
    for name in net.params:
        net.params[name][...] += 0.02 * rng.standard_normal(net.params[name].shape)
    x = rng.standard_normal((batch, *net.input_shape)).astype(net.device.dtype)
    feeds = {"x": x, "t": rng.integers(0, net.classes, batch)}
    feeds = feeds if train else {"x": feeds["x"]}
    return error_beside_exact(
        net.wire(batch, train), net.state_dict(), feeds, dict(net._grads) if train else None, kernels
    )
