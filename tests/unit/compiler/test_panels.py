"""Transformed kernels lie in panels of columns where products are cut, and give the same convolution."""

from collections.abc import Iterator

import numpy as np
import pytest

from nl_nodes import Graph, Input, Mul, Parameter, Sum, Transpose
from nl_nodes.compiler import CompileSpec, Executor, Plan
from nl_nodes.compiler.fused.conv.node import Conv
from nl_nodes.device.product_cut import CUTS
from nl_nodes.runtime.cut import BLOCK
from nl_nodes.runtime.threads import Threads

rng = np.random.default_rng(5)


@pytest.fixture(params=[(1, "float64"), (2, "float64"), (3, "float32")], ids=str)
def workers(request: pytest.FixtureRequest) -> Iterator[tuple[Executor, str]]:
    """Yield an executor that cuts products, and a dtype."""
    count, dtype = request.param
    executor = Threads(count, CUTS[0]) if count > 1 else Executor(CUTS[0])
    yield executor, dtype
    executor.close()


@pytest.mark.parametrize(
    ("maps", "images", "filters", "channels", "panels"),
    [
        ((8, 8), 25, 128, 64, {2, 1}),
        ((8, 8), 25, 96, 128, {1, 2}),  # 96 filters are no whole number of panels
        ((6, 4), 8, 256, 128, {2}),  # the algorithm for many filters, in chunks of 128
        ((2, 2), 17, 128, 192, {2, 3}),
    ],
)
def test_kernels_in_panels_give_the_same_convolution_and_gradients(
    maps: tuple[int, int], images: int, filters: int, channels: int, panels: set[int], workers: tuple[Executor, str]
) -> None:
    executor, dtype = workers
    feeds = {name: rng.standard_normal((images, *maps, depth)) for name, depth in (("x", channels), ("dy", filters))}
    x, dy = (Transpose(Input(name, array.shape), (1, 2, 0, 3)) for name, array in feeds.items())
    w = Parameter(rng.standard_normal((filters, channels, 3, 3)).astype(dtype), "w")
    graph = Graph(Sum(Mul(Conv(x, w, size=maps, pad=1), dy)))
    spec = CompileSpec({name: (array.shape, dtype) for name, array in feeds.items()}, frozenset(feeds), gradients={})
    whole, cut = Plan(graph, spec, Executor()), Plan(graph, spec, executor)
    assert panels_of(whole) == {1}
    if executor.count == 1:  # shards of filters need not be whole numbers of panels
        assert panels_of(cut) == panels
    limit = 1e-12 if dtype == "float64" else 1e-4
    for one, other in zip(whole.run(feeds, 0), cut.run(feeds, 0), strict=True):
        np.testing.assert_allclose(one, other, rtol=limit)
    for name, gradient in whole.grads.items():
        np.testing.assert_allclose(gradient, cut.grads[name], rtol=0, atol=limit * np.abs(gradient).max())


def panels_of(plan: Plan) -> set[int]:
    """Return into how many panels a plan's kernels are transformed; the rows of each are adjacent."""
    found = set()
    for name, args in plan.calls[0]:
        if name == "matmul" and args[0].shape in {(36, 9), (9, 9)}:
            panels, _, _, width = args[2].shape
            assert args[2].strides[1] == width * args[2].itemsize
            assert width == BLOCK or panels == 1
            found.add(panels)
    return found
