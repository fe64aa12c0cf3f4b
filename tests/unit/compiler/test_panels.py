"""Transformed kernels lie in panels of columns where products are cut, and give the same convolution."""

import numpy as np
import pytest

from nl_nodes import Graph, Input, Mul, Parameter, Sum
from nl_nodes.compiler import CompileSpec, Executor, Plan
from nl_nodes.compiler.fused.conv.node import Conv
from nl_nodes.compiler.fused.conv.winograd import PANEL
from nl_nodes.device.product_limit import LIMIT

rng = np.random.default_rng(5)


@pytest.mark.parametrize(
    ("maps", "images", "filters", "channels", "panels"),
    [
        ((8, 8), 24, 128, 64, {2, 1}),
        ((8, 8), 24, 96, 128, {1, 2}),  # 96 filters are no whole number of panels
        ((6, 4), 8, 256, 128, {2}),  # the algorithm for many filters, in chunks of 128
        ((2, 2), 16, 128, 128, {2}),
    ],
)
def test_kernels_in_panels_give_the_same_convolution_and_gradients(
    maps: tuple[int, int], images: int, filters: int, channels: int, panels: set[int]
) -> None:
    feeds = {"x": rng.standard_normal((*maps, images, channels)), "dy": rng.standard_normal((*maps, images, filters))}
    x, dy = (Input(name, array.shape) for name, array in feeds.items())
    w = Parameter(rng.standard_normal((filters, channels, 3, 3)), "w")
    graph = Graph(Sum(Mul(Conv(x, w, size=maps, pad=1), dy)))
    spec = CompileSpec({name: (array.shape, array.dtype) for name, array in feeds.items()}, gradients={})
    whole, cut = (Plan(graph, spec, Executor(limit)) for limit in (None, LIMIT))
    assert panels_of(whole) == {1}
    assert panels_of(cut) == panels
    for one, other in zip(whole.run(feeds, 0), cut.run(feeds, 0), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)
    for name, gradient in whole.grads.items():
        np.testing.assert_allclose(gradient, cut.grads[name], rtol=0, atol=1e-12 * np.abs(gradient).max())


def panels_of(plan: Plan) -> set[int]:
    """Return into how many panels a plan's kernels are transformed; the rows of each are adjacent."""
    found = set()
    for name, args in plan.calls[0]:
        if name == "matmul" and args[0].shape in {(36, 9), (9, 9)}:
            panels, _, _, width = args[2].shape
            assert args[2].strides[1] == width * args[2].itemsize
            assert width == PANEL or panels == 1
            found.add(panels)
    return found
