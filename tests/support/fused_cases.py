"""A Hypothesis strategy of random cases for each fused node; feature maps have at least one image."""

from typing import Any

from hypothesis import assume
from hypothesis import strategies as st

from nl_nodes import OneHot
from nl_nodes.cases import Case, distinct, labels, real
from nl_nodes.compiler.fused import (
    Affine,
    ChannelMean,
    ChannelVariance,
    Conv,
    LabelLogSoftmax,
    Normalize,
    Pool,
    ZeroPad,
)
from nl_nodes.compiler.fused.conv.node import padding

SIZES = st.integers(1, 3)
PADDINGS = st.tuples(*[st.integers(0, 3)] * 4)


@st.composite
def maps(draw, least: int = 1) -> tuple[int, ...]:
    return (draw(st.integers(least, 5)), draw(st.integers(least, 5)), draw(SIZES), draw(SIZES))


@st.composite
def affine(draw) -> Case:
    relu, out = draw(st.booleans()), draw(SIZES)
    shape = draw(maps()) if draw(st.booleans()) else (draw(SIZES), draw(SIZES))
    rows = shape[0] * shape[1] * shape[3] if len(shape) == 4 else shape[1]
    return Case(f"relu {relu}", lambda x, w, b: Affine(x, w, b, relu), (real(*shape), real(rows, out), real(out)))


@st.composite
def convolution(draw) -> Case:
    """Few and many channels, and various kernels, pads and strides, so that every algorithm occurs."""
    h, w, n, _ = draw(maps())
    c = draw(st.sampled_from([1, 2, 5, 8, 9]))
    kernel = draw(st.sampled_from([(3, 3), (3, 3), (1, 1), (2, 3), (5, 4)]))
    pad, stride, k = draw(st.integers(0, 3)), draw(st.sampled_from([1, 1, 2, 3])), draw(SIZES)
    assume(h + 2 * pad >= kernel[0])
    assume(w + 2 * pad >= kernel[1])
    form: dict[str, Any] = {"relu": draw(st.booleans()), "out_pad": draw(PADDINGS)}
    oh, ow = ((m + 2 * pad - f) // stride + 1 for m, f in zip((h, w), kernel, strict=True))
    form["pool"] = draw(st.booleans()) and min(oh, ow) > 1
    widths = padding((h, w), (k, c, *kernel), pad, stride)
    draws = [real(h, w, n, c), real(k, c, *kernel), real(k)][: draw(st.integers(2, 3))]
    return Case(
        f"{kernel}, pad {pad}, stride {stride}, {form}",
        lambda x, *rest: Conv(ZeroPad(x, widths), *rest, size=(h, w), pad=pad, stride=stride, **form),
        tuple(draws),
    )


@st.composite
def normalize(draw) -> Case:
    shape = draw(maps(2))
    form = {"relu": draw(st.booleans()), "pool": draw(st.booleans()), "out_pad": draw(PADDINGS)}

    residual = [real(*shape)] * draw(st.integers(0, not form["pool"]))

    def build(x, gamma, beta, *residual):
        mean = ChannelMean(x)
        return Normalize(x, mean, ChannelVariance(x, mean), gamma, beta, 1e-3, **form, residual=(*residual, None)[0])

    return Case(f"{form}", build, (real(*shape), real(shape[3]), real(shape[3]), *residual))


@st.composite
def label_log_softmax(draw) -> Case:
    n, classes = draw(SIZES), draw(st.integers(2, 4))
    t = draw(st.sampled_from([labels(n, classes=classes), labels(n, classes, classes=2)]))
    return Case("labels", lambda x, t: LabelLogSoftmax(x, OneHot(t, x)), (real(n, classes), t))


@st.composite
def of_maps(draw, node, values=real, least: int = 1, **arguments) -> Case:
    given = {name: draw(strategy) for name, strategy in arguments.items()}
    return Case(f"{given}", lambda x: node(x, **given), (values(*draw(maps(least))),))


@st.composite
def variance(draw) -> Case:
    shape = draw(maps())
    return Case("any", ChannelVariance, (real(*shape), real(shape[3])))


FUSED: dict[str, st.SearchStrategy[Case]] = {
    "Affine": affine(),
    "ChannelMean": of_maps(ChannelMean),
    "ChannelVariance": variance(),
    "Conv": convolution(),
    "ZeroPad": of_maps(ZeroPad, padding=PADDINGS),
    "LabelLogSoftmax": label_log_softmax(),
    "Normalize": normalize(),
    "Pool": of_maps(Pool, distinct, 2, out_pad=PADDINGS),
}
