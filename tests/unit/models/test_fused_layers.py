"""Layers are wired in the form that the rewrite rules match: each becomes its fused nodes."""

import numpy as np
import pytest

from nl_layers import Affine, BatchNormalization, Convolution, Pooling, SoftmaxWithLoss
from nl_layers.module import Module
from nl_nodes.compiler import RULES, rewrite

MAPS, ROWS = (2, 8, 6, 6), (2, 8)
FUSED: dict[str, tuple[Module, tuple[tuple[int, ...], ...], list[str]]] = {
    "convolution": (Convolution(np.ones((8, 8, 3, 3)), np.ones(8), pad=1), (MAPS,), ["ZeroPad", "Conv"]),
    "convolution, no bias": (Convolution(np.ones((8, 8, 3, 3)), pad=1), (MAPS,), ["ZeroPad", "Conv"]),
    "pooling": (Pooling(2, 2), (MAPS,), ["Pool"]),
    "batch norm": (
        BatchNormalization(np.ones(8), np.ones(8)), (MAPS,), ["ChannelMean", "ChannelVariance", "Normalize"]
    ),
    "batch norm of rows": (
        BatchNormalization(np.ones(8), np.ones(8)), (ROWS,), ["ChannelMean", "ChannelVariance", "Normalize"]
    ),
    "affine": (Affine(np.ones((8, 4)), np.ones(4)), (ROWS,), ["Affine"]),
    "affine on maps": (Affine(np.ones((8 * 36, 4)), np.ones(4)), (MAPS,), ["Affine"]),
    "loss, classes": (SoftmaxWithLoss(), (ROWS, ROWS[:1]), ["LabelLogSoftmax"]),
    "loss, rows": (SoftmaxWithLoss(), (ROWS, ROWS), ["LabelLogSoftmax"]),
}  # fmt: skip


@pytest.mark.parametrize("name", FUSED)
def test_layer_is_rewritten_to_its_fused_nodes(name: str) -> None:
    layer, shapes, expected = FUSED[name]
    order = rewrite(layer.graph(shapes), RULES).order
    fused = [type(node).__name__ for node in order if ".compiler.fused." in type(node).__module__]
    assert fused == expected
