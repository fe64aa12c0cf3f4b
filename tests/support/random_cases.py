"""A Hypothesis strategy of cases for every node: shapes, with axes of size 0 and 1, and constructor arguments."""

from math import prod

from hypothesis import assume
from hypothesis import strategies as st

from nl_nodes import (
    Add,
    AddConst,
    Dot,
    Exp,
    Img2Matrix,
    IndexMask,
    Input,
    Log,
    MaskedMul,
    Max,
    Mean,
    Mul,
    MulConst,
    OneHot,
    Pad,
    Power,
    Reciprocal,
    Repeat,
    Reshape,
    ShapeError,
    Sigmoid,
    Slice,
    Softplus,
    StopGradient,
    Sum,
    T,
    Tanh,
    Transpose,
    ValueMask,
)
from nl_nodes.cases import Case, away, distinct, labels, positive, real
from nl_nodes.shapes import normalise, reduced
from nl_nodes.typing import Shape

SIZES = st.sampled_from([2, 1, 3, 0, 2, 3])
# Not too near 0: a gradient below 1e-208 times the complex step of 1e-100 underflows in float64.
NUMBERS = st.floats(-3, 3).map(lambda number: round(number, 6))


def shapes(least: int = 0, most: int = 5) -> st.SearchStrategy[Shape]:
    return st.lists(SIZES, min_size=least, max_size=most).map(tuple)


@st.composite
def elementwise(draw, node, values=real, **arguments) -> Case:
    """A node of one input, with drawn arguments."""
    given = {name: draw(strategy) for name, strategy in arguments.items()}
    return Case(f"{given}", lambda x: node(x, **given), (values(*draw(shapes())),))


@st.composite
def broadcast(draw, node) -> Case:
    """Two shapes that broadcast, either of which may lack leading axes; or one input twice."""
    whole = draw(shapes())
    if draw(st.booleans()):
        return Case("shared", lambda x: node(x, x), (real(*whole),))
    narrow = draw(st.lists(st.booleans(), min_size=len(whole), max_size=len(whole)))
    part = tuple(1 if one else n for one, n in zip(narrow, whole, strict=True))[draw(st.integers(0, len(whole))) :]
    pair = draw(st.permutations([whole, part]))
    return Case("two", node, (real(*pair[0]), real(*pair[1])))


@st.composite
def signed(draw, axis: int, ndim: int) -> int:
    """Return the axis, counted from either end."""
    return axis - ndim if draw(st.booleans()) else axis


@st.composite
def reduction(draw, node, values=real) -> Case:
    """Axis None, an integer or a tuple; no mean or maximum of empty axes."""
    shape, keepdims = draw(shapes()), draw(st.booleans())
    several = draw(st.permutations(range(len(shape))))[: draw(st.integers(0, len(shape)))]
    axes = tuple(draw(signed(a, len(shape))) for a in several)
    axis = draw(st.sampled_from([axes, axes[0] if axes else None, None]))
    lengths = [shape[a] for a in normalise(axis, len(shape))]
    assume(node is not Max or all(lengths))
    assume(node is not Mean or prod(shape) or not prod(reduced(shape, normalise(axis, len(shape)), keepdims)))
    return Case(f"axis {axis}, keepdims {keepdims}", lambda x: node(x, axis, keepdims), (values(*shape),))


@st.composite
def repeat(draw) -> Case:
    shape, repeats = draw(shapes(1)), draw(st.integers(1, 3))
    axis = draw(signed(draw(st.integers(0, len(shape) - 1)), len(shape)))
    return Case(f"{repeats} times along {axis}", lambda x: Repeat(x, repeats, axis), (real(*shape),))


@st.composite
def reshape(draw) -> Case:
    """A target of merged, permuted and added axes; 0 for some that stay in place, -1 for one."""
    shape = draw(shapes())
    target = list(draw(st.permutations(shape)) if draw(st.booleans()) else shape)
    while len(target) > 1 and draw(st.booleans()):
        at = draw(st.integers(0, len(target) - 2))
        target[at : at + 2] = [target[at] * target[at + 1]]
    for at in draw(st.lists(st.integers(0, len(target)), max_size=2)):
        target.insert(at, 1)
    same = [i for i, n in enumerate(target) if i < len(shape) and n == shape[i]]
    copied = {i for i in same if target[i] == 0 or draw(st.booleans())}
    assume(all(n or i in copied for i, n in enumerate(target)))
    left = draw(st.sampled_from([None, *range(len(target))]))
    # -1 cannot be inferred where the other axes are empty.
    if left is not None and prod(n for i, n in enumerate(target) if i != left):
        copied.discard(left)
        target[left] = -1
    wanted = tuple(0 if i in copied else n for i, n in enumerate(target))
    return Case(f"to {wanted}", lambda x: Reshape(x, wanted), (real(*shape),))


@st.composite
def transpose(draw) -> Case:
    shape = draw(shapes())
    axes = tuple(draw(signed(a, len(shape))) for a in draw(st.permutations(range(len(shape)))))
    return Case(f"axes {axes}", lambda x: Transpose(x, axes), (real(*shape),))


@st.composite
def part(draw) -> Case:
    """Ends inside and outside of the axes, from either end."""
    shape, ends = draw(shapes()), st.none() | st.integers(-5, 5)
    slices = tuple(slice(draw(ends), draw(ends), draw(st.sampled_from([None, 1, 2, 3]))) for _ in shape)
    return Case(f"{slices}", lambda x: Slice(x, slices), (real(*shape),))


@st.composite
def pad(draw) -> Case:
    shape, width = draw(shapes()), st.integers(0, 2)
    widths = tuple((draw(width), draw(width)) for _ in shape)
    return Case(f"{widths}", lambda x: Pad(x, widths), (real(*shape),))


@st.composite
def dot(draw) -> Case:
    inner, n = draw(SIZES), draw(SIZES)
    if draw(st.booleans()):
        return Case("shared", lambda x: Dot(x, x), (real(n, n),))
    return Case("two", Dot, (real(*draw(shapes(0, 3)), inner), real(inner, *draw(shapes(1, 3)))))


@st.composite
def windows(draw) -> Case:
    shape = (draw(st.integers(0, 2)), draw(st.integers(0, 2)), draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    arguments = {
        "height": draw(st.integers(1, 4)),
        "width": draw(st.integers(1, 4)),
        "stride": draw(st.integers(1, 4)),
        "pad": draw(st.integers(0, 3)),
        "fill": draw(st.sampled_from([0.0, -1.5, None])),
    }
    try:
        Img2Matrix(Input("x", shape), **arguments)
    except ShapeError:
        assume(False)
    return Case(f"{arguments}", lambda x: Img2Matrix(x, **arguments), (real(*shape),))


@st.composite
def mask(draw) -> Case:
    threshold = draw(NUMBERS)
    return Case(f"above {threshold}", lambda x: ValueMask(x, threshold), (away(*draw(shapes()), point=threshold),))


@st.composite
def power(draw) -> Case:
    """Integer powers of any number, others of positive numbers."""
    whole = draw(st.booleans())
    p = draw(st.integers(1, 4) if whole else NUMBERS.filter(bool))
    return Case(f"p = {p}", lambda x: Power(x, p), ((real if whole else positive)(*draw(shapes())),))


@st.composite
def one_hot(draw) -> Case:
    """Class indices, rows, and binary targets."""
    n, classes = draw(SIZES), draw(st.integers(1, 4))
    like, t = draw(
        st.sampled_from(
            [
                ((n, classes), labels(n, classes=max(classes, 2))),
                ((n, classes), labels(n, classes, classes=2)),
                ((n,), labels(n, classes=2)),
            ]
        )
    )
    return Case("labels", lambda x, t: Mul(x, OneHot(t, x)), (real(*like), t))


SEEDS = st.integers(0, 2**64 - 1)
CASES: dict[str, st.SearchStrategy[Case]] = {
    "Add": broadcast(Add),
    "AddConst": elementwise(AddConst, c=NUMBERS),
    "Dot": dot(),
    "Exp": elementwise(Exp),
    "Img2Matrix": windows(),
    "IndexMask": elementwise(IndexMask, ratio=st.floats(0, 1, exclude_max=True), seed=SEEDS, stream=SEEDS),
    "Log": elementwise(Log, positive),
    "MaskedMul": broadcast(MaskedMul),
    "Max": reduction(Max, distinct),
    "Mean": reduction(Mean),
    "Mul": broadcast(Mul),
    "MulConst": elementwise(MulConst, c=NUMBERS),
    "OneHot": one_hot(),
    "Pad": pad(),
    "Power": power(),
    "Reciprocal": elementwise(Reciprocal, positive),
    "Repeat": repeat(),
    "Reshape": reshape(),
    "Sigmoid": elementwise(Sigmoid),
    "Slice": part(),
    "Softplus": elementwise(Softplus),
    "StopGradient": elementwise(StopGradient),
    "Sum": reduction(Sum),
    "T": elementwise(T),
    "Tanh": elementwise(Tanh),
    "Transpose": transpose(),
    "ValueMask": mask(),
}
