"""Results of layers and losses for infinite, NaN and extreme inputs; see `not_finite`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, nan
from typing import Any

import numpy as np

import nl_layers as layers
from nl_layers import Pooling, Relu, SigmoidWithLoss, Softmax, SoftmaxWithLoss
from support.not_finite import SHIFTED, TINY


@dataclass(frozen=True)
class LayerPoint:
    """A layer or loss with an input and expected results.

    Attributes:
        make: makes the layer or loss.
        x: the input.
        y: the expected output.
        dx: the expected gradient of the input.
        t: the labels of a loss.
        dy: the upstream gradient, ones by default.
    """

    make: Callable[[], Any]
    x: Any
    y: Any
    dx: Any
    t: Any = None
    dy: Any = None

    def arguments(self, dtype: str) -> list[np.ndarray]:
        """The arguments of `forward`."""
        return [np.array(self.x, dtype), *([] if self.t is None else [np.array(self.t)])]

    def upstream(self, dtype: str) -> np.ndarray:
        """The upstream gradient."""
        return np.ones(np.shape(self.y), dtype) if self.dy is None else np.array(self.dy, dtype)


LAYER_POINTS: dict[str, LayerPoint] = {
    "relu": LayerPoint(Relu, [[-inf, inf, nan, 0, 1]], [[0, inf, nan, 0, 1]], [[0, 1, 1, 0, 1]]),
    "relu, upstream": LayerPoint(Relu, [[-1, 1, -1, 1]], [[0, 1, 0, 1]], [[0, inf, 0, nan]], dy=[[inf, inf, nan, nan]]),
    "sigmoid": LayerPoint(
        layers.Sigmoid,
        [[-inf, inf, nan, -20, -40, 40, 1e30, -1e30]],
        [[0, 1, nan, 2.0611536181902037e-09, TINY, 1, 1, 0]],
        [[0, 0, nan, 2.0611536139418494e-09, TINY, 0, 0, 0]],
    ),
    "tanh": LayerPoint(layers.Tanh, [[-inf, inf, nan, 1e30]], [[-1, 1, nan, 1]], [[0, 0, nan, 0]]),
    "softmax, masked": LayerPoint(
        Softmax, [[-inf, 0, 1]], [SHIFTED], [[0, -0.19661193324148185, 0.19661193324148185]], dy=[[1, 2, 3]]
    ),
    "softmax, all masked": LayerPoint(Softmax, [[-inf, -inf]], [[nan, nan]], [[nan, nan]]),
    "softmax, infinite": LayerPoint(Softmax, [[inf, 0]], [[nan, nan]], [[nan, nan]]),
    "softmax, large": LayerPoint(Softmax, [[1e30, 0, -1e30]], [[1, 0, 0]], [[0, 0, 0]], dy=[[1, 2, 3]]),
    "loss, masked": LayerPoint(
        SoftmaxWithLoss, [[-inf, 0, 1]], 1.3132616875182228, [[0, -SHIFTED[2], SHIFTED[2]]], t=[1]
    ),
    "loss, label masked": LayerPoint(SoftmaxWithLoss, [[-inf, 0, 1]], inf, [[-1, *SHIFTED[1:]]], t=[0]),
    "loss, infinite": LayerPoint(SoftmaxWithLoss, [[inf, 0, 1]], nan, [[nan] * 3], t=[1]),
    "loss, no number": LayerPoint(SoftmaxWithLoss, [[nan, 0, 1]], nan, [[nan] * 3], t=[1]),
    "loss, large": LayerPoint(SoftmaxWithLoss, [[1e30, 0, 1]], 1e30, [[1, -1, 0]], t=[1]),
    "binary, sure and right": LayerPoint(SigmoidWithLoss, [40], TINY, [-TINY], t=[1]),
    "binary, sure and wrong": LayerPoint(SigmoidWithLoss, [40], 40, [1], t=[0]),
    "binary, far out": LayerPoint(SigmoidWithLoss, [-1e30], 1e30, [-1], t=[1]),
    "binary, no number": LayerPoint(SigmoidWithLoss, [nan], nan, [nan], t=[1]),
    "pooling": LayerPoint(
        lambda: Pooling(2, 2),
        [[[[-inf, -inf, 1, nan], [-inf, -inf, 2, 3]]]],
        [[[[-inf, nan]]]],
        [[[[2, 0, 0, 3], [0, 0, 0, 0]]]],
        dy=[[[[2, 3]]]],
    ),
    "pooling, padded": LayerPoint(
        lambda: Pooling(2, 2, 2, 1), [[[[-inf, nan], [3, -inf]]]], [[[[-inf, nan], [3, -inf]]]], [[[[1, 1], [1, 1]]]]
    ),
    "pooling, upstream": LayerPoint(
        lambda: Pooling(2, 2), [[[[1, 2], [3, 4]]]], [[[[4]]]], [[[[0, 0], [0, inf]]]], dy=[[[[inf]]]]
    ),
}
