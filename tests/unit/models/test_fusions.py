"""The rewrite rules replace layers by few fused operations."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from support.patterns import PATTERNS, affine, agree, changed, convolution, norm, random, sum_of, values, wired

from nl_layers import Layer, Pooling, Relu, Residual, Tanh
from nl_models import build
from nl_nodes import (
    Add,
    AddConst,
    Constant,
    Dot,
    Exp,
    Graph,
    Input,
    Leaf,
    Log,
    MaskedMul,
    Max,
    Mean,
    Mul,
    MulConst,
    Node,
    OneHot,
    Pad,
    Power,
    Reshape,
    Slice,
    Sum,
    Transpose,
    ValueMask,
)
from nl_nodes.compiler import RULES, rewrite
from nl_nodes.compiler.fused import ChannelMean, Normalize, Pool, ZeroPad
from nl_nodes.compiler.fused.pad import NO_PADDING

CONV, MEAN = "Transpose ZeroPad Conv", "Transpose ChannelMean"
MEANS = f"{MEAN} ChannelVariance"
ROW = "Reshape Reshape"
BECOMES = {
    "convolution": f"{CONV} Transpose",
    "convolution without bias": f"{CONV} Transpose",
    "pooling": "Transpose Pool Transpose",
    "batch norm of images": f"Tanh {MEANS} Normalize Transpose",
    "batch norm of features": f"Tanh Reshape {MEANS} Normalize Transpose Reshape",
    "affine": "Affine+relu",
    "loss": "OneHot LabelLogSoftmax Sum MulConst MulConst",
    "smoothed loss": "OneHot MulConst AddConst LabelLogSoftmax Sum MulConst MulConst",
    "dropped images": f"{CONV} Transpose IndexMask MulConst",
    "dropped features": f"Reshape {MEANS} Normalize Transpose Reshape IndexMask MulConst",
    "mean of features as images": f"Reshape {MEAN} MulConst Reshape Add Mul {MEAN} Reshape",
    "two convolutions": f"{CONV} Tanh ZeroPad Conv Transpose",
    "batch norm's inference": f"{CONV} MulConst {ROW} Add AddConst Power {ROW} Mul {ROW} Mul {ROW} Add Transpose",
    "two branches": f"{CONV} Conv Add Transpose",
    "residual block": f"{CONV} Tanh ChannelMean ChannelVariance Normalize+residual+relu Transpose",
    "residual block, projected": f"{MEANS} ZeroPad Conv Normalize+residual+relu Transpose",
    "residual block of fewer pixels": (
        f"{MEANS} Normalize+relu Conv ChannelMean ChannelVariance Slice Pad Normalize+residual+relu Transpose"
    ),
    "shortcut first": f"{CONV} Tanh ChannelMean ChannelVariance Tanh Normalize+residual Transpose",
    "mean of pixels": f"{CONV} Sum MulConst Affine",
    "affine on maps": f"{CONV} Affine",
    "rectified and pooled": f"{CONV}+relu+pool Transpose",
    "normalised, rectified and pooled": f"{MEANS} Normalize+relu+pool+out_pad Conv Transpose",
    "features, normalised and rectified": f"Reshape {MEANS} Normalize+relu Transpose Reshape Affine",
}
"""The operations that each pattern becomes; a plus precedes each operation fused into another."""


def layers_of(pattern: str) -> str:
    """Return a pattern's name without its sizes."""
    return pattern.rpartition(", ")[0]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_pattern_is_rewritten_to_the_expected_operations(pattern: str) -> None:
    assert operations(rewrite(PATTERNS[pattern](), RULES)) == BECOMES[layers_of(pattern)]


def operations(graph: Graph) -> str:
    """Return the computing nodes in order, each with its epilogue."""
    told = []
    for node in graph.order:
        does = {"relu": False, "pool": False, "out_pad": NO_PADDING} | node.attributes
        does["residual"] = isinstance(node, Normalize) and len(node.inputs) > 5
        epilogue = [name for name in ("residual", "relu", "pool", "out_pad") if does[name] not in (False, NO_PADDING)]
        told += [] if isinstance(node, Leaf) else ["+".join([type(node).__name__, *epilogue])]
    return " ".join(told)


def joined() -> dict[str, tuple[tuple[int, ...], list[Layer], str]]:
    """Consecutive layers by description: their input shape, the layers, and the expected operations."""
    images, one = (4, 4, 6, 6), (4, 4, 1, 1)
    first, second, tiny = convolution(4, 4), convolution(4, 4), convolution(4, 4)
    return {
        "a frame is written at once": (images, [first, Relu(), second], f"{CONV}+relu+out_pad Conv Transpose"),
        "pooled into a frame": (images, [first, Pooling(2, 2), second], f"{CONV}+pool+out_pad Conv Transpose"),
        "pooled alone, into a frame": (images, [Pooling(2, 2), second], "Transpose Pool+out_pad Conv Transpose"),
        "pooled twice": (images, [first, Pooling(2, 2), Pooling(2, 2)], f"{CONV}+pool Pool Transpose"),
        "normalised in a frame": (images, [norm(4), first], f"{MEANS} Normalize+out_pad Conv Transpose"),
        "rectified twice": (images, [first, Relu(), Relu()], f"{CONV}+relu ValueMask Transpose"),
        "rectified when pooled": (images, [first, Pooling(2, 2), Relu()], f"{CONV}+relu+pool Transpose"),
        "normalised maps": (images, [first, norm(4)], f"{CONV} ChannelMean ChannelVariance Normalize Transpose"),
        "two shortcuts": (
            images,
            [first, Tanh(), Residual(Residual(norm(4)))],
            f"{CONV} Tanh ChannelMean ChannelVariance Normalize+residual Add Transpose",
        ),
        "affine on one pixel": (one, [tiny, affine(4, 4)], f"{CONV} Transpose Reshape Affine"),
        "affine on images": (images, [affine(144, 4)], "Reshape Affine"),
        "affine layers": ((4, 5), [affine(5, 4), Relu(), affine(4, 5), Tanh()], "Affine+relu Affine Tanh"),
    }


@pytest.mark.parametrize("how", joined())
def test_consecutive_layers_are_fused(how: str) -> None:
    shape, layers, expected = joined()[how]
    graph = sum_of(*wired(shape, *layers).outputs)
    rewritten = rewrite(graph, RULES)
    assert operations(rewritten) == f"{expected} Mul Sum"
    assert agree(values(rewritten), values(graph))


SHAPES = [
    ((4,), (4, 4), (4,)),
    ((4, 4, 4), (4, 4), (4,)),
    ((4, 4), (4, 4, 4), (4,)),
    ((4, 4), (4, 4, 4), (4, 4)),
    ((4, 4), (4, 4), ()),
    ((4, 4), (4, 4), (1,)),
    ((4, 4), (4, 4), (1, 4)),
    ((4, 4), (4, 4), (4, 4)),
    ((4, 4), (4, 5), (4, 1)),
]


@pytest.mark.parametrize("known", [{"x", "w", "b"}, {"w", "b"}, {"x", "b"}, {"x", "w"}, set()])
@pytest.mark.parametrize("shapes", [*SHAPES, ((4, 3), (3, 5), (5,))])
def test_product_and_sum_of_other_shapes_are_not_fused(shapes: tuple[tuple[int, ...], ...], known: set[str]) -> None:
    named = dict(zip("xwb", shapes, strict=True))
    x, w, b = (Input(name, shape if name in known else None) for name, shape in named.items())
    graph = Graph(Sum(Add(Dot(x, w), b)))
    rewritten = rewrite(graph, RULES)
    feeds = {name: random(*shape) for name, shape in named.items()}
    assert operations(rewritten) == ("Affine Sum" if shapes not in SHAPES and len(known) == 3 else "Dot Add Sum")
    assert agree(values(rewritten, **feeds), values(graph, **feeds))


@pytest.mark.parametrize("name", ["resnet20", "resnet18"])
def test_a_residual_network_transposes_its_images_only(name: str) -> None:
    graph = build(name, width=8, input_shape=(3, 16, 16)).wire(2, train=True)
    on_images = [node for node in rewrite(graph, RULES).order if len(node.shape or ()) == 4]
    kinds = [type(node).__name__ for node in on_images if 1 not in (node.shape or ())[:1]]
    assert kinds.count("Transpose") == 1
    assert not {"Add", "Mul", "ValueMask", "Power"}.intersection(kinds)
    assert kinds.count("ZeroPad") == 1  # around the images


@pytest.mark.parametrize("over", [lambda maps: ValueMask(maps), Pool, lambda maps: ZeroPad(maps, (1, 0, 0, 1))])
@pytest.mark.parametrize("pattern", ["convolution, sizes alike", "batch norm of images, sizes alike"])
def test_a_node_with_another_use_is_not_computed_twice(pattern: str, over: Any) -> None:
    (images,) = rewrite(PATTERNS[pattern](), RULES).outputs
    (maps,) = images.inputs
    graph = sum_of(over(maps), maps)
    rewritten = rewrite(graph, RULES)
    assert operations(rewritten).count(type(maps).__name__) == 1
    assert agree(values(rewritten), values(graph))


@pytest.mark.parametrize("unknown", ["x", "parameters", "all"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_graph_without_shapes_is_rewritten_to_an_equal_one_or_unchanged(pattern: str, unknown: str) -> None:
    """As in a network whose input shape is unknown before it runs."""
    (result,) = PATTERNS[pattern]().outputs
    graph = Graph(Mul(result, Constant(random(*result.shape or ()))))
    leaves = [leaf for leaf in graph.leaves.values() if leaf.name != "t" and not isinstance(leaf, Constant)]
    come = {leaf for leaf in leaves if unknown in ("all", "x" if leaf.name == "x" else "parameters")}
    feeds = {leaf.name: random(*leaf.shape or ()) for leaf in come}
    new = changed(graph, {leaf: Input(leaf.name) for leaf in come})
    rewritten = rewrite(new, RULES)
    assert agree(values(rewritten, **feeds), values(new, **feeds))


def test_an_affine_layer_on_images_in_other_rows_takes_no_maps() -> None:
    rows = Reshape(wired((4, 4, 4, 4), convolution(4, 4)).outputs[0], (8, -1))
    graph = sum_of(Add(Dot(rows, Constant(random(32, 3))), Constant(random(3))))
    rewritten = rewrite(graph, RULES)
    assert operations(rewritten) == f"{CONV} Transpose Reshape Affine Mul Sum"
    assert agree(values(rewritten), values(graph))


CUBE, OTHER = AddConst(Input("x", (3, 3, 3)), 1), Exp(Input("y", (3, 3, 3)))
COLUMN, ROUND, SWAP = Input("z", (3, 3, 1)), (1, 2, 0), (0, 2, 1)
IMAGES = Transpose(Input("maps", (2, 3, 4, 5)), (2, 3, 0, 1))
MOVES: dict[str, tuple[Node, str]] = {
    "there and back": (Transpose(Transpose(CUBE, ROUND), (2, 0, 1)), "AddConst"),
    "there and on": (Transpose(Transpose(CUBE, ROUND), ROUND), "AddConst Transpose Transpose"),
    "swapped and on": (Transpose(Transpose(CUBE, (1, 0, 2)), SWAP), "AddConst Transpose Transpose"),
    "two alike": (Add(Transpose(CUBE, ROUND), Transpose(OTHER, ROUND)), "AddConst Exp Add Transpose"),
    "two alike, multiplied": (Mul(Transpose(CUBE, ROUND), Transpose(OTHER, ROUND)), "AddConst Exp Mul Transpose"),
    "two alike that broadcast": (Add(Transpose(CUBE, ROUND), Transpose(COLUMN, ROUND)), "AddConst Add Transpose"),
    "two apart": (Add(Transpose(CUBE, ROUND), Transpose(OTHER, SWAP)), "AddConst Transpose Exp Transpose Add"),
    "two far apart": (Add(Transpose(CUBE, SWAP), Transpose(OTHER, ROUND)), "AddConst Transpose Exp Transpose Add"),
    "beside channels": (Mul(IMAGES, Input("row", (1, 5, 1, 1))), "Reshape Mul Transpose"),
    "beside pixels": (Mul(IMAGES, Input("image", (1, 1, 2, 3))), "Transpose Mul"),
    "beside samples": (Mul(IMAGES, Input("column", (4, 1, 1, 1))), "Transpose Mul"),
    "reshaped to the same": (Reshape(CUBE, (0, 3, -1)), "AddConst"),
    "reshaped to another": (Exp(Reshape(CUBE, (0, -1))), "AddConst Exp Reshape"),
}


@pytest.mark.parametrize("how", MOVES)
def test_transposes_are_sunk_or_cancelled(how: str) -> None:
    node, expected = MOVES[how]
    graph = sum_of(node)
    rewritten = rewrite(graph, RULES)
    assert operations(rewritten) == f"{expected} Mul Sum"
    feeds = {name: random(*leaf.shape or ()) for name, leaf in graph.leaves.items() if isinstance(leaf, Input)}
    assert agree(values(rewritten, **feeds), values(graph, **feeds))


def test_mean_of_no_elements_is_not_rewritten() -> None:
    assert operations(rewrite(Graph(Mean(Input("x", (0, 0)), 0)), RULES)) == "Mean"


@pytest.mark.parametrize(("over", "expected"), [(Pool, "Pool"), (partial(ZeroPad, padding=(2, 0, 1, 3)), "ZeroPad")])
@pytest.mark.parametrize("pattern", ["convolution, sizes alike", "batch norm of images, sizes alike"])
def test_node_that_writes_padding_takes_no_further_epilogue(pattern: str, over: Any, expected: str) -> None:
    (images,) = rewrite(PATTERNS[pattern](), RULES).outputs
    graph = sum_of(over(ZeroPad(images.inputs[0], (0, 2, 1, 1))))
    rewritten = rewrite(graph, RULES)
    assert operations(rewritten).endswith(f"+out_pad {expected} Mul Sum")
    assert agree(values(rewritten), values(graph))


@pytest.mark.parametrize(
    ("padded", "expected"),
    [
        (lambda maps, padding: ValueMask(ZeroPad(maps, padding)), "+relu+out_pad Mul Sum"),
        (Pool, " Pool+out_pad Mul Sum"),
    ],
)
@pytest.mark.parametrize("pattern", ["convolution, sizes alike", "batch norm of images, sizes alike"])
def test_only_relu_is_fused_into_maps_across_padding(pattern: str, padded: Any, expected: str) -> None:
    (images,) = rewrite(PATTERNS[pattern](), RULES).outputs
    graph = sum_of(padded(images.inputs[0], (0, 2, 1, 1)))
    rewritten = rewrite(graph, RULES)
    assert operations(rewritten).endswith(expected)
    assert agree(values(rewritten), values(graph))


OTHERS: dict[str, tuple[tuple[int, ...], Callable[[Node], Node]]] = {
    "images for maps": ((4, 4, 4, 4), lambda x: x),
    "samples for channels": ((4, 4, 4, 4), lambda x: Transpose(x, (2, 3, 1, 0))),
    "others": ((4, 4, 4, 4), lambda x: Transpose(Exp(x), (2, 3, 0, 1))),
    "one channel": ((4, 4), lambda x: Transpose(Reshape(x, (-1, 1, 1, 1)), (2, 3, 0, 1))),
    "one channel of columns": ((4, 4), lambda x: Transpose(Reshape(x, (4, 1, 4, 1)), (2, 3, 0, 1))),
}


@pytest.mark.parametrize("of", OTHERS)
def test_mean_of_another_array_makes_no_variance(of: str) -> None:
    shape, maps = OTHERS[of]
    x = Input("x", shape)
    row, axes = ((1, -1, 1, 1), (0, 2, 3)) if len(shape) == 4 else ((1, -1), 0)
    apart = Add(x, MulConst(Reshape(ChannelMean(maps(x)), row), -1))
    graph = sum_of(Mean(Mul(apart, apart), axes, keepdims=True))
    rewritten = rewrite(graph, RULES)
    assert "ChannelVariance" not in operations(rewritten)
    assert agree(values(rewritten), values(graph))


def minus_mean(x: Node, factor: float = -1) -> Node:
    return MulConst(Mean(x, (0, 2, 3), keepdims=True), factor)


def as_images(x: Node) -> Node:
    return Reshape(x, (0, -1, 1, 1))


IMAGE_SHAPE = (4, 4, 4, 4)
NORMALISED: dict[str, tuple[tuple[int, ...], Callable[[Node], Node], Callable[[Node], Node]]] = {
    "variance of others": (IMAGE_SHAPE, Exp, minus_mean),
    "mean of others": (IMAGE_SHAPE, lambda x: x, lambda x: minus_mean(Exp(x))),
    "mean and variance of others": (IMAGE_SHAPE, Exp, lambda x: minus_mean(Exp(x))),
    "twice the mean": (IMAGE_SHAPE, lambda x: x, partial(minus_mean, factor=-2)),
    "mean and variance as of images": ((4, 4), as_images, lambda x: minus_mean(as_images(x))),
}


@pytest.mark.parametrize("by", NORMALISED)
def test_normalisation_by_the_mean_or_variance_of_others_stays(by: str) -> None:
    shape, others, shift = NORMALISED[by]
    x, gamma, beta = Input("x", shape), Input("gamma", (4,)), Input("beta", (4,))
    apart = Add(others(x), minus_mean(others(x)))
    variance = Mean(Mul(apart, apart), (0, 2, 3), keepdims=True)
    normal = Mul(Add(x, shift(x)), Power(AddConst(variance, 0.1), -0.5))
    row = (1, -1, 1, 1)
    graph = sum_of(Add(Mul(normal, Reshape(gamma, row)), Reshape(beta, row)))
    rewritten = rewrite(graph, RULES)
    assert "ChannelVariance" in operations(rewritten)
    assert "Normalize" not in operations(rewritten)
    feeds = {"gamma": random(4), "beta": random(4)}
    assert agree(values(rewritten, **feeds), values(graph, **feeds))


@pytest.mark.parametrize("axes", [(2, 3, 0, 1), (-2, -1, 0, 1)])
def test_slices_and_padding_of_transposed_arrays_are_moved(axes: tuple[int, ...]) -> None:
    turned = Transpose(Input("x", (2, 3, 4, 5)), axes)
    for node in (
        Slice(turned, (slice(1, 3), slice(None), slice(1), slice(2))),
        Pad(turned, ((1, 0), (0, 2), (0, 0), (3, 1))),
    ):
        graph = sum_of(node)
        rewritten = rewrite(graph, RULES)
        assert operations(rewritten) == f"{type(node).__name__} Transpose Mul Sum"
        assert agree(values(rewritten), values(graph))


SOFTMAX: dict[str, dict[str, Any]] = {
    "shifted by another's largest": {"largest": lambda x: Input("z", (4, 4))},
    "labels of one class": {"like": lambda x: Sum(x, 1, keepdims=True)},
    "of three axes": {"shape": (4, 4, 4)},
    "minus twice the logarithm": {"factor": -2},
    "as a column": {"keepdims": True},
}


@pytest.mark.parametrize("how", SOFTMAX)
@pytest.mark.parametrize("smoothed", [False, True])
def test_log_softmax_without_labels_is_not_fused(how: str, smoothed: bool) -> None:
    usual = {"shape": (4, 4), "largest": lambda x: x, "like": lambda x: x, "factor": -1, "keepdims": False}
    shape, largest, like, factor, keepdims = (usual | SOFTMAX[how]).values()
    x, t = Input("x", shape), Input("t", (4,) if len(shape) == 2 else shape, gradient=False)
    shifted = Add(x, MulConst(Max(largest(x), -1, keepdims=True), -1))
    logs = Add(shifted, MulConst(Log(Sum(Exp(shifted), -1, keepdims=True)), factor))
    rows = OneHot(t, like(logs))
    rows = AddConst(MulConst(rows, 0.9), 0.025) if smoothed else rows
    graph = sum_of(Sum(MaskedMul(rows, logs), 1, keepdims))
    rewritten = rewrite(graph, RULES)
    assert "LabelLogSoftmax" not in operations(rewritten)
    feeds = {"t": np.zeros(t.shape or (), int)} | ({"z": random(4, 4)} if "z" in graph.leaves else {})
    assert agree(values(rewritten, **feeds), values(graph, **feeds))
