"""Graphs for lowering: each has something that the workers share, sum, alias or gather in a way of its own."""

from __future__ import annotations

import numpy as np

from nl_nodes import (
    Add,
    Buffer,
    Constant,
    Dot,
    Exp,
    Graph,
    IndexMask,
    Input,
    Mul,
    MulConst,
    Node,
    Parameter,
    StopGradient,
    Sum,
    T,
    Tanh,
    Transpose,
)
from nl_nodes.compiler.fused import Affine, ChannelMean, ChannelVariance, Conv, Normalize, ZeroPad

N = 7
rng = np.random.default_rng(0)


def x() -> Input:
    return Input("x", (N, 3))


def maps() -> Node:
    """Two images of 16 channels of 2x2, as maps (H, W, N, C)."""
    return Transpose(Input("x", (2, 16, 2, 2)), (2, 3, 0, 1))


def held(name: str, *shape: int) -> Parameter:
    return Parameter(rng.standard_normal(shape), name)


class Joined(Node, abstract=True):
    """y = a and b concatenated; their gradients are views of one array."""

    def infer(self, *shapes):
        return (sum(shape[0] for shape in shapes),)

    def forward(self, ctx, *inputs):
        a, b = inputs
        y = ctx.xp.empty(self.infer(a.shape, b.shape), dtype=a.dtype)
        y[: len(a)], y[len(a) :] = a, b
        return y

    def backward(self, ctx, dy):
        at = ctx.shapes[0][0]
        return dy[:at], dy[at:]


class Tail(Node, abstract=True):
    """y = x with a zero in place of its first element, in persistent zeros; likewise backward."""

    def infer(self, *shapes):
        return shapes[0]

    def forward(self, ctx, *inputs):
        y = ctx.group.persistent_zeros(inputs[0].shape, inputs[0].dtype)
        y[1:] = inputs[0][1:]
        return y

    def backward(self, ctx, dy):
        return self.forward(ctx, dy)


def layers() -> Graph:
    y = Tanh(Add(Dot(x(), held("w", 3, 4)), held("b", 4)))
    return Graph(Sum(Exp(Add(Dot(y, held("v", 4, 2)), held("a", 2)))))


def partial_and_replicated() -> Graph:
    """The penalty's gradient is replicated."""
    w = held("w", 3, 4)
    return Graph(Add(Sum(Dot(Dot(x(), w), T(w))), Sum(Mul(w, w))))


def replicated() -> Graph:
    return Graph(Add(Sum(x()), Sum(Exp(held("w", 3, 4)))))


def gradients_in_one_array() -> Graph:
    return Graph(Sum(Exp(Dot(x(), Add(Add(held("w", 3, 4), held("v", 3, 4)), Constant(np.ones(4)))))))


def gradients_as_views() -> Graph:
    return Graph(Sum(Mul(x(), Exp(Joined(held("b", 1), held("a", 2))))))


def gradient_in_another_order() -> Graph:
    return Graph(Add(Sum(x()), Sum(Exp(T(held("w", 3, 4))))))


def gradient_in_persistent_memory() -> Graph:
    return Graph(Add(Sum(x()), Sum(Exp(Tail(held("w", 3, 4))))))


def without_gradient() -> Graph:
    return Graph(Sum(Dot(x(), Add(held("w", 3, 4), StopGradient(held("v", 3, 4))))))


def nothing_to_train() -> Graph:
    return Graph(Exp(Sum(Input("x", (N, 3), gradient=False))))


def scalar_parameter() -> Graph:
    return Graph(Sum(Exp(Mul(Mul(x(), held("s")), held("b", 3)))))


def empty_parameter() -> Graph:
    rows = x()
    return Graph(Add(Sum(Dot(rows, held("w", 3, 0))), Sum(Mul(rows, held("b", 3)))))


def input_without_batch_axis() -> Graph:
    """An input without batch axis, and a constant in Fortran order."""
    known = Constant(np.asfortranarray(rng.standard_normal((3, 4))))
    return Graph(Sum(Dot(x(), Mul(Exp(Input("beside", (3, 4))), known))))


def input_named_constant() -> Graph:
    return Graph(Sum(Mul(Exp(Input("constant", (N, 3))), Constant(np.arange(3.0)))))


def batch_last() -> Graph:
    y = Transpose(Mul(T(Dot(x(), held("w", 3, 4))), held("b", 4, 1)), (1, 0))
    return Graph(Sum(y), T(y), y)


def sums_over_the_batch() -> Graph:
    """A sum over the batch is broadcast back to it, through a product."""
    rows = x()
    sums = Sum(rows, axis=0)
    return Graph(Sum(Mul(Add(rows, MulConst(sums, 2.0)), Dot(rows, Mul(held("w", 3, 3), sums)))), sums)


def two_sums_in_one_node() -> Graph:
    rows = Transpose(Transpose(x(), (1, 0)), (1, 0))
    return Graph(Sum(Tanh(Affine(rows, Exp(held("w", 3, 4)), Exp(held("b", 4)), relu=False))))


def updates() -> Graph:
    rows, seen, known = x(), Buffer(rng.standard_normal(3), "seen"), Buffer(rng.standard_normal((N, 3)), "known")
    new = Add(MulConst(seen, 0.5), Sum(rows, axis=0))
    return Graph(Sum(Mul(rows, new)), updates={seen: new, known: Exp(rows)})


def dropout() -> Graph:
    y = Dot(x(), held("w", 3, 5))
    return Graph(Sum(Mul(IndexMask(y, 0.5, seed=1), IndexMask(Tanh(y), 0.3, seed=1, stream=2))))


def several_uses() -> Graph:
    y = Exp(x())
    return Graph(Sum(Mul(Add(y, y), Add(y, Constant(np.arange(3.0))))))


def statistics() -> Graph:
    mean = ChannelMean(x := maps())
    return Graph(Sum(Mul(ChannelVariance(x, mean), mean)))


def normalised() -> Graph:
    """The gradient of the maps includes those of mean and variance."""
    return Graph(Sum(Exp(normal(Exp(maps()), ""))))


def normal(x: Node, number: str, **form) -> Normalize:
    mean, gamma, beta = ChannelMean(x), held(f"gamma{number}", 16), held(f"beta{number}", 16)
    return Normalize(x, mean, ChannelVariance(x, mean), gamma, beta, 0.1, **form)


def residual_block() -> Graph:
    """Maps that a convolution and the sum behind it read."""
    shortcut = normal(Exp(maps()), "1", relu=True)
    branch = Conv(shortcut, held("w", 16, 16, 3, 3), size=(2, 2), pad=1)
    return Graph(Sum(Exp(normal(branch, "2", relu=True, residual=shortcut))))


def residual_chain(count: int = 2) -> Graph:
    """Sums one after the other, each of which is computed again from the one before."""
    return sums_after(Exp(maps()), count)


def first_convolution() -> Graph:
    """Sums one after the other, the first of a convolution of three channels."""
    images = Transpose(Input("x", (2, 3, 2, 2)), (2, 3, 0, 1))
    return sums_after(Conv(ZeroPad(images, (1, 1, 1, 1)), held("w0", 16, 3, 3, 3), size=(2, 2), pad=1), 2)


def doubled_chain() -> Graph:
    """Each sum is of its input and the same input normalised."""
    y = normal(Exp(maps()), "0", relu=True)
    for n in range(1, 3):
        y = normal(y, str(n), relu=True, residual=y)
    return Graph(Sum(Conv(y, held("w", 16, 16, 3, 3), size=(2, 2), pad=1)))


def sums_after(first: Node, count: int) -> Graph:
    y = normal(first, "0", relu=True)
    for n in range(1, count + 1):
        branch = Conv(y, held(f"w{n}", 16, 16, 3, 3), size=(2, 2), pad=1)
        y = normal(branch, str(n), relu=True, residual=y)
    return Graph(Sum(Conv(y, held("w", 16, 16, 3, 3), size=(2, 2), pad=1)))


def padded() -> Graph:
    y = ZeroPad(maps(), (1, 0, 2, 1))
    return Graph(Sum(Mul(Exp(y), Add(y, held("b", 16)))))


def kernels_split() -> Graph:
    """Few images, so that the kernels are split over the workers, which fill one gradient; one kernel is used twice."""
    w, form = held("w", 16, 16, 3, 3), {"size": (2, 2), "pad": 1}
    return Graph(Sum(Conv(Conv(maps(), w, **form), w, held("b", 16), **form)))


def replicated_maps() -> Graph:
    """Every worker convolves the same maps, which do not depend on the batch."""
    y = Conv(held("m", 2, 2, 3, 16), held("w", 16, 16, 3, 3), size=(2, 2), pad=1)
    return Graph(Add(Sum(Mul(maps(), Constant(np.ones(16)))), Sum(Exp(y))))


ON_ROWS = [
    layers, partial_and_replicated, replicated, gradients_in_one_array, gradients_as_views, gradient_in_another_order,
    gradient_in_persistent_memory, without_gradient, nothing_to_train, scalar_parameter, empty_parameter,
    input_without_batch_axis, input_named_constant, batch_last, sums_over_the_batch, two_sums_in_one_node,
    updates, dropout, several_uses,
]  # fmt: skip
ON_MAPS = [statistics, normalised, residual_block, residual_chain, padded, kernels_split, replicated_maps]
