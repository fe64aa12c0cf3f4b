"""Every layer and loss compared with plain formulas: dtypes, modes, labels, upstream gradients and errors."""

import numpy as np
import pytest
from support.assertions import refused
from support.layer_cases import LAYER_CASES

from nl_layers import (
    Affine,
    BatchNormalization,
    Convolution,
    CrossEntropy,
    Dropout,
    Pooling,
    Relu,
    Sigmoid,
    SigmoidWithLoss,
    Softmax,
    SoftmaxWithLoss,
    Tanh,
)
from nl_layers.module import Mode
from nl_nodes import Graph, IndexMask, Input, ShapeError, UserError
from nl_nodes.verify import draw, upstream

RNG = np.random.default_rng(1)
START = RNG.bit_generator.state
LOGITS = np.random.default_rng(2).standard_normal((6, 4)) * 2
LABELS = np.array([0, 3, 1, 1, 2, 0])
ONE_HOT = np.eye(4)[LABELS]


@pytest.fixture(autouse=True)
def _same_numbers_in_any_order() -> None:
    RNG.bit_generator.state = START


def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def windows(x, fh, fw, stride, pad, fill):
    """Yield each output index with its input window, extracted by loops."""
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)), constant_values=fill)
    for i, j in np.ndindex(output_shape(x, 1, fh, fw, stride, pad)[2:]):
        yield i, j, padded[:, :, i * stride : i * stride + fh, j * stride : j * stride + fw]


def output_shape(x, count, fh, fw, stride, pad):
    h, w = x.shape[2:]
    return (len(x), count, (h + 2 * pad - fh) // stride + 1, (w + 2 * pad - fw) // stride + 1)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4, 5)])
def test_activations(shape) -> None:
    x, dy = rng().standard_normal(shape), upstream(rng(), shape)
    sigmoid = 1 / (1 + np.exp(-x))
    expected = [
        (Relu(), np.where(x > 0, x, 0), np.where(x > 0, dy, 0)),
        (Sigmoid(), sigmoid, dy * sigmoid * (1 - sigmoid)),
        (Tanh(), np.tanh(x), dy / np.cosh(x) ** 2),
    ]
    for layer, y, dx in expected:
        np.testing.assert_allclose(layer.forward(x), y, rtol=1e-13, atol=1e-15)
        np.testing.assert_allclose(layer.backward(dy), dx, rtol=1e-13, atol=1e-15)


def test_relu_at_zero_and_unchanged_upstream() -> None:
    layer, dy = Relu(), np.array([[2.0, 3.0, 5.0]])
    assert layer.forward(np.array([[0.0, -1.0, 1.0]])).tolist() == [[0, 0, 1]]
    assert layer.backward(dy).tolist() == [[0, 0, 5]]
    assert dy.tolist() == [[2, 3, 5]]


def test_softmax_rows_vector_and_extremes() -> None:
    layer, dy = Softmax(), upstream(rng(), LOGITS.shape)
    y = softmax(LOGITS)
    np.testing.assert_allclose(layer.forward(LOGITS), y, rtol=1e-14)
    np.testing.assert_allclose(layer.backward(dy), y * (dy - (dy * y).sum(1, keepdims=True)), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(Softmax().forward(LOGITS[0]), y[0], rtol=1e-14)
    assert Softmax().forward(np.array([[1e4, -1e4, 1e4], [-1e4] * 3])).tolist() == [[0.5, 0, 0.5], [1 / 3] * 3]
    assert Sigmoid().forward(np.array([[1e4, -1e4, 0]])).tolist() == [[1, 0, 0.5]]


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("shape", [(3, 12), (3, 2, 2, 3)])
def test_affine(shape, with_bias: bool) -> None:
    x, w, b = rng().standard_normal(shape), RNG.standard_normal((12, 5)), RNG.standard_normal(5)
    dy = upstream(rng(), (3, 5))
    layer = Affine(w, b if with_bias else None)
    flat = np.array([[row[index] for index in np.ndindex(row.shape)] for row in x])  # channels, then rows, then columns
    np.testing.assert_allclose(layer.forward(x), flat @ w + (b if with_bias else 0), rtol=1e-12)
    dx = layer.backward(dy)
    assert dx.shape == shape
    np.testing.assert_allclose(dx.reshape(3, 12), dy @ w.T, rtol=1e-12)
    np.testing.assert_allclose(layer.grads["weight"], flat.T @ dy, rtol=1e-12)
    assert set(layer.params) == set(layer.grads) == ({"weight", "bias"} if with_bias else {"weight"})
    if with_bias:
        np.testing.assert_allclose(layer.grads["bias"], dy.sum(0), rtol=1e-12)


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize(
    ("fh", "fw", "stride", "pad"), [(3, 3, 1, 1), (3, 2, 2, 0), (2, 3, 3, 1), (1, 1, 1, 0), (3, 3, 2, 2), (5, 5, 1, 0)]
)
def test_convolution_matches_direct_loops(fh, fw, stride, pad, with_bias: bool) -> None:
    x, w, b = RNG.standard_normal((2, 3, 6, 7)), RNG.standard_normal((4, 3, fh, fw)), RNG.standard_normal(4)
    shape = output_shape(x, 4, fh, fw, stride, pad)
    y, dy = np.zeros(shape), upstream(rng(), shape)
    dw, dx = np.zeros_like(w), np.zeros((2, 3, 6 + 2 * pad, 7 + 2 * pad))
    for i, j, window in windows(x, fh, fw, stride, pad, 0.0):
        for n, f in np.ndindex(2, 4):
            y[n, f, i, j] = (window[n] * w[f]).sum() + (b[f] if with_bias else 0)
            dw[f] += dy[n, f, i, j] * window[n]
            dx[n, :, i * stride : i * stride + fh, j * stride : j * stride + fw] += dy[n, f, i, j] * w[f]
    layer = Convolution(w, b if with_bias else None, stride=stride, pad=pad)
    np.testing.assert_allclose(layer.forward(x), y, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(layer.backward(dy), dx[:, :, pad : pad + 6, pad : pad + 7], rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(layer.grads["weight"], dw, rtol=1e-11, atol=1e-13)
    assert ("bias" in layer.grads) == with_bias
    if with_bias:
        np.testing.assert_allclose(layer.grads["bias"], dy.sum((0, 2, 3)), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("h", "w", "stride", "pad"), [(2, 2, 2, 0), (3, 3, 2, 1), (2, 3, 1, 1), (2, 2, 3, 0), (3, 3, 1, 2)]
)
def test_pooling_matches_direct_loops(h, w, stride, pad) -> None:
    x = RNG.integers(-9, -1, (2, 3, 7, 6)).astype(float)  # negative: a padded zero would be the maximum; with ties
    shape = output_shape(x, 3, h, w, stride, pad)
    y, dy, dx = np.zeros(shape), upstream(rng(), shape), np.zeros((2, 3, 7 + 2 * pad, 6 + 2 * pad))
    for i, j, window in windows(x, h, w, stride, pad, -np.inf):
        for n, c in np.ndindex(2, 3):
            best = max(np.ndindex(h, w), key=lambda at: window[n, c][at])  # the first of tied maxima
            y[n, c, i, j] = window[n, c][best]
            dx[n, c, i * stride + best[0], j * stride + best[1]] += dy[n, c, i, j]
    layer = Pooling(h, w, stride=stride, pad=pad)
    np.testing.assert_array_equal(layer.forward(x), y)
    np.testing.assert_allclose(layer.backward(dy), dx[:, :, pad : pad + 7, pad : pad + 6], rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("shape", [(8, 3), (4, 3, 5, 2)])
def test_batch_normalization(shape) -> None:
    axes, form = (0, 2, 3)[: len(shape) - 1], (1, 3, 1, 1)[: len(shape)]
    gamma, beta = RNG.uniform(0.5, 2, 3), RNG.standard_normal(3)
    layer = BatchNormalization(gamma, beta, momentum=0.8, eps=1e-4)
    x = RNG.standard_normal(shape) * 3 + 1
    untrained = gamma.reshape(form) * x / np.sqrt(1 + 1e-4) + beta.reshape(form)
    np.testing.assert_allclose(layer.forward(x, train=False), untrained, rtol=1e-12, atol=1e-13)

    mean, var, dy = np.zeros(3), np.ones(3), upstream(rng(), shape)
    for _ in range(3):
        x = RNG.standard_normal(shape) * 3 + 1
        mu, v = x.mean(axes), ((x - x.mean(axes, keepdims=True)) ** 2).mean(axes)
        xhat = (x - mu.reshape(form)) / np.sqrt(v.reshape(form) + 1e-4)
        y = layer.forward(x)
        np.testing.assert_allclose(y, gamma.reshape(form) * xhat + beta.reshape(form), rtol=1e-11, atol=1e-12)
        mean, var = 0.8 * mean + 0.2 * mu, 0.8 * var + 0.2 * v
        np.testing.assert_allclose(layer.running_mean.value, mean, rtol=1e-13)
        np.testing.assert_allclose(layer.running_var.value, var, rtol=1e-13)
    g = dy - dy.mean(axes, keepdims=True) - xhat * (dy * xhat).mean(axes, keepdims=True)
    g *= gamma.reshape(form) / np.sqrt(v.reshape(form) + 1e-4)
    np.testing.assert_allclose(layer.backward(dy), g, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(layer.grads["gamma"], (dy * xhat).sum(axes), rtol=1e-11)
    np.testing.assert_allclose(layer.grads["beta"], dy.sum(axes), rtol=1e-11)

    inferred = layer.forward(x, train=False)
    scale = gamma.reshape(form) / np.sqrt(var.reshape(form) + 1e-4)
    np.testing.assert_allclose(inferred, (x - mean.reshape(form)) * scale + beta.reshape(form), rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(layer.running_mean.value, mean, rtol=1e-13)  # inference leaves them unchanged
    np.testing.assert_allclose(layer.backward(dy), dy * scale, rtol=1e-12)


@pytest.mark.parametrize("train", [True, False])
def test_batch_normalization_flattens_images_if_gamma_has_one_value_per_feature(train: bool) -> None:
    x, gamma, beta = RNG.standard_normal((5, 3, 2, 2)), RNG.uniform(0.5, 2, 12), RNG.standard_normal(12)
    for shape in ((5, 3, 2, 2), (5, 3, 4)):
        layer, rows = BatchNormalization(gamma, beta), BatchNormalization(gamma, beta)
        np.testing.assert_array_equal(layer.forward(x.reshape(shape), train), rows.forward(x.reshape(5, 12), train))
    assert BatchNormalization(np.ones(3), np.zeros(3)).forward(x[:, :, :1, :1], train).shape == (5, 3, 1, 1)


@pytest.mark.parametrize("inverted", [True, False])
def test_dropout_masks_scaling_and_replay(inverted: bool) -> None:
    x, dy = RNG.uniform(1, 2, (200, 50)), upstream(rng(), (200, 50))
    layer = Dropout(0.3, inverted=inverted, seed=9)
    first, second = layer.forward(x), layer.forward(x)
    ctx = second != 0
    scale = 1 / 0.7 if inverted else 1.0
    np.testing.assert_allclose(second, x * ctx * scale, rtol=1e-15)
    np.testing.assert_allclose(layer.backward(dy), dy * ctx * scale, rtol=1e-15)
    assert abs(ctx.mean() - 0.7) < 0.02
    assert 0.3 < np.mean((first != 0) != ctx) < 0.55  # the next pass has another mask: a share of 2 * 0.3 * 0.7 differs
    replay = Dropout(0.3, inverted=inverted, seed=9)
    np.testing.assert_array_equal(replay.forward(x), first)
    replay.forward(x, train=False)  # does not change the masks
    np.testing.assert_array_equal(replay.forward(x), second)
    for seed, stream in ((9, 0), (8, 2)):
        mask = Graph(IndexMask(Input("x"), 0.3, seed, stream)).forward(x=x)
        np.testing.assert_array_equal(Dropout(0.3, inverted, seed, stream).forward(x) != 0, mask != 0)
    for other in (Dropout(0.3, inverted, seed=8), Dropout(0.3, inverted, seed=9, stream=1)):
        assert not np.array_equal(other.forward(x), first)
    np.testing.assert_allclose(layer.forward(x, train=False), x if inverted else 0.7 * x, rtol=1e-15)
    np.testing.assert_allclose(layer.backward(dy), dy if inverted else 0.7 * dy, rtol=1e-15)


@pytest.mark.parametrize("t", [LABELS, ONE_HOT], ids=["integers", "one-hot"])
@pytest.mark.parametrize("dy", [1, -2.5])
def test_losses(t, dy: float) -> None:
    p, n, eta = softmax(LOGITS), len(LOGITS), 1e-7
    at = p[np.arange(n), LABELS]
    exact = -np.log(at + eta).mean()
    w = at / (at + eta)  # the factor that eta leaves of the gradient
    sigmoid = 1 / (1 + np.exp(-LOGITS))
    binary = -(ONE_HOT * np.log(sigmoid) + (1 - ONE_HOT) * np.log(1 - sigmoid)).sum(1).mean()
    expected = [
        (SoftmaxWithLoss(), LOGITS, -np.log(at).mean(), (p - ONE_HOT) / n),
        (SoftmaxWithLoss("exact"), LOGITS, exact, (p - ONE_HOT) * w[:, None] / n),
        (SoftmaxWithLoss("textbook"), LOGITS, exact, (p - ONE_HOT) / n),
        (CrossEntropy(), p, exact, -ONE_HOT / (p + eta) / n),
        (SigmoidWithLoss(), LOGITS, binary, (sigmoid - ONE_HOT) / n),
    ]
    for loss, x, value, gradient in expected:
        assert loss.forward(x, t).shape == ()
        np.testing.assert_allclose(loss.forward(x, t), value, rtol=1e-13)
        np.testing.assert_allclose(loss.backward(dy), dy * gradient, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(loss.backward(), gradient, rtol=1e-10)


class Noting(CrossEntropy, abstract=True):
    """Records whether it is wired in training mode."""

    def wire(self, *inputs, mode):
        self.train = mode.train
        return super().wire(*inputs, mode=mode)


def test_loss_is_wired_in_training_mode() -> None:
    loss = Noting()
    loss.forward(softmax(LOGITS), LABELS)
    assert loss.train


@pytest.mark.parametrize("shape", [(6,), (6, 1)])
def test_sigmoid_loss_of_one_logit_per_sample(shape) -> None:
    x, t = LOGITS[:, 0].reshape(shape), np.array([0, 1, 1, 0, 1, 0])
    p, loss = 1 / (1 + np.exp(-x.ravel())), SigmoidWithLoss()
    np.testing.assert_allclose(loss.forward(x, t), -np.log(np.where(t, p, 1 - p)).mean(), rtol=1e-13)
    np.testing.assert_allclose(loss.backward(), ((p - t) / 6).reshape(shape), rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_losses_are_finite_at_extreme_logits(dtype: str) -> None:
    x, t = np.array([[1e4, -1e4, 0], [-1e4, 1e4, 1e4]], dtype), np.array([1, 1])
    for loss, value in ((SoftmaxWithLoss(), 2e4 + np.log(2)), (SigmoidWithLoss(), 3e4 + np.log(2))):
        got = loss.forward(x, t)
        assert got.dtype == dtype
        np.testing.assert_allclose(got, value / 2, rtol=1e-6)
        assert np.isfinite(loss.backward()).all()
    for name in ("exact", "textbook"):
        loss = SoftmaxWithLoss(name)
        assert np.isfinite(loss.forward(x, t))
        assert np.isfinite(loss.backward()).all()
        assert loss.backward()[0].any() == (name == "textbook")  # the exact gradient of such a row is 0


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
@pytest.mark.parametrize("case", LAYER_CASES)
def test_output_dtype_is_the_input_dtype(case, dtype: str) -> None:
    def given(what, generator):
        value = draw(generator, what)
        return value if what.domain == "labels" else value.astype(dtype)

    generator, exact = rng(), rng()
    layer, reference = case.make(lambda d: given(d, generator)), case.make(lambda d: draw(exact, d))
    mode = () if "t" in layer.feeds else (case.train,)
    y = layer.forward(*[given(d, generator) for d in case.draws], *mode)
    expected = reference.forward(*[draw(exact, d) for d in case.draws], *mode)
    dy = upstream(rng(), y.shape)
    dx, dx_expected = layer.backward(dy.astype(dtype)), reference.backward(dy)
    assert {a.dtype for a in (y, dx, *layer.grads.values())} == {np.dtype(dtype)}
    tolerance = {"rtol": 1e-3, "atol": 1e-4} if dtype == "float32" else {"rtol": 1e-12, "atol": 1e-13}
    np.testing.assert_allclose(y, expected, **tolerance)
    np.testing.assert_allclose(dx, dx_expected, **tolerance)


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1, 1)])
def test_batch_normalization_refuses_to_train_on_one_value_per_channel(shape) -> None:
    layer = BatchNormalization(np.ones(3), np.zeros(3))
    with pytest.raises(ShapeError, match=r"one value per feature in .*batches of 2 or more") as error:
        layer.forward(np.ones(shape))
    assert str(shape) in str(error.value)
    np.testing.assert_array_equal(layer.running_var.value, 1)
    np.testing.assert_allclose(layer.forward(np.ones(shape), train=False), np.ones(shape), rtol=1e-5)
    assert np.abs(BatchNormalization(np.ones(3), np.zeros(3)).forward(RNG.standard_normal((1, 3, 2, 1)))).min() > 0.5


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: Affine(np.ones((4, 3)), np.ones(2)), ["(4, 3)", "(2,)"]),
        (lambda: Affine(np.ones((4, 3))).forward(np.ones((2, 5))), ["(2, 5)", "(4, 3)"]),
        (lambda: Convolution(np.ones((2, 3, 3, 3)), np.ones(3)), ["(2, 3, 3, 3)", "(3,)"]),
        (lambda: Convolution(np.ones((2, 3, 3, 3))).forward(np.ones((1, 2, 5, 5))), ["(2, 3, 3, 3)", "(1, 2, 5, 5)"]),
        (lambda: Convolution(np.ones((2, 3, 3, 3))).forward(np.ones((1, 3, 2, 5))), ["3x3", "(1, 3, 2, 5)"]),
        (lambda: Pooling(3, 2).forward(np.ones((1, 1, 2, 2))), ["3x2", "(1, 1, 2, 2)"]),
        (lambda: BatchNormalization(np.ones(3), np.ones(4)), ["(3,)", "(4,)"]),
        (lambda: BatchNormalization(np.ones(3), np.ones(3)).forward(np.ones((5, 4))), ["(3,)", "(5, 4)"]),
        (lambda: BatchNormalization(np.ones(1), np.ones(1)).forward(np.ones(5)), ["(1,)", "(5,)"]),
        (lambda: BatchNormalization(np.ones(1), np.ones(1)).wire(Input("x"), mode=Mode(train=True)), ["(1,)", "None"]),
        (lambda: SoftmaxWithLoss().forward(np.ones((5, 3)), np.ones((4, 3))), ["(5, 3)", "(4, 3)"]),
        (lambda: SigmoidWithLoss().forward(np.ones((5, 3)), np.ones(4, int)), ["(5, 3)", "(4,)"]),
    ],
)
def test_error_names_all_mismatched_shapes(call, told: list[str]) -> None:
    with pytest.raises(ShapeError) as error:
        call()
    assert all(shape in str(error.value) for shape in told), error.value


def test_wrong_calls_are_refused() -> None:
    for told, call in {
        "ratio": lambda: Dropout(1.0),
        "smaller than the window": lambda: Pooling(2, 2, pad=2),
        "stable, exact, textbook": lambda: SoftmaxWithLoss("none"),
        "run forward first": lambda: Relu().backward(np.ones(2)),
    }.items():
        with pytest.raises(UserError, match=told):
            call()


def test_wrong_numbers_and_arguments_of_layers_are_refused() -> None:
    weight = np.ones((2, 1, 3, 3))
    for make, told in {
        lambda: Convolution(weight, stride=0): "Convolution: stride must be a whole number, 1 or more, got 0",
        lambda: Convolution(weight, pad=-1): "Convolution: pad must be a whole number, 0 or more, got -1",
        lambda: Convolution(weight, padding=1): "Convolution has no argument 'padding': did you mean pad?",
        lambda: Pooling(2.0, 2): "Pooling: height must be a whole number, 1 or more, got 2.0",
        lambda: BatchNormalization(np.ones(2), np.ones(2), momentum=2): "momentum must be a number from 0 to 1, got 2",
        lambda: BatchNormalization(np.ones(2), np.ones(2), eps=-1): "eps must be a number, 0 or more, got -1",
        lambda: CrossEntropy(eta=-1): "CrossEntropy: eta must be a number, 0 or more, got -1",
        lambda: SoftmaxWithLoss(eta=-1): "SoftmaxWithLoss: eta must be a number, 0 or more, got -1",
        lambda: Relu(inplace=True): "Relu has no argument 'inplace': it takes no arguments",
    }.items():
        with refused(told):
            make()
