"""Optimizers compared with the papers' recurrences; weight decay and initial weights."""

import math

import numpy as np
import pytest
from support.assertions import refused

from nl_layers import Convolution, FlatDict, add_weight_decay, clip_norm
from nl_layers.initializers import normal, std
from nl_layers.optimizers import LAMB, SGD, AdaGrad, Adam, AdamW, Lion, Momentum, Muon, Nesterov, Optimizer, RMSprop
from nl_layers.schedules import Cosine, Step
from nl_nodes import Device, UserError
from nl_nodes.device import backends

SHAPES = {"W1": (3, 4), "b1": (4,), "gamma1": (4,), "beta1": (4,), "W2": (4, 2), "b2": (2,)}
STEPS = 7


def sgd(p, grads, lr=0.1):
    for g in grads:
        p = p - lr * g
    return p


def momentum(p, grads, lr=0.1, m=0.8):
    v = 0.0 * p
    for g in grads:
        v = m * v - lr * g
        p = p + v
    return p


def nesterov(p, grads, lr=0.1, m=0.8):
    """Return a step in Sutskever's form: the gradient is taken at `theta + m v`, the point that a network stores."""
    v, theta = 0.0 * p, p
    for g in grads:
        v = m * v - lr * g
        theta = theta + v
    return theta + m * v


def adagrad(p, grads, lr=0.1, eps=1e-6):
    seen = []
    for g in grads:
        seen.append(g)
        p = p - lr * g / (np.sqrt(sum(s**2 for s in seen)) + eps)
    return p


def rmsprop(p, grads, lr=0.1, decay=0.9, eps=1e-6):
    for i, g in enumerate(grads):
        weights = [(1 - decay) * decay ** (i - j) for j in range(i + 1)]
        p = p - lr * g / (np.sqrt(sum(w * s**2 for w, s in zip(weights, grads, strict=False))) + eps)
    return p


def adam(p, grads, lr=0.1, b1=0.8, b2=0.95, eps=1e-6, decay=0.0):
    m, v = 0.0 * p, 0.0 * p
    for t, g in enumerate(grads, 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        p = p - lr * ((m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps) + decay * p)
    return p


def lion(p, grads, lr=0.1, b1=0.8, b2=0.95, decay=0.0):
    m = 0.0 * p
    for g in grads:
        p = p - lr * (np.sign(b1 * m + (1 - b1) * g) + decay * p)
        m = b2 * m + (1 - b2) * g
    return p


RULES = {
    "sgd": (lambda: SGD(lr=0.1), sgd),
    "momentum": (lambda: Momentum(lr=0.1, momentum=0.8), momentum),
    "nesterov": (lambda: Nesterov(lr=0.1, momentum=0.8), nesterov),
    "adagrad": (lambda: AdaGrad(lr=0.1, eps=1e-6), adagrad),
    "rmsprop": (lambda: RMSprop(lr=0.1, decay=0.9, eps=1e-6), rmsprop),
    "adam": (lambda: Adam(lr=0.1, beta1=0.8, beta2=0.95, eps=1e-6), adam),
    "adamw": (lambda: AdamW(lr=0.1, beta1=0.8, beta2=0.95, eps=1e-6, weight_decay=0.2), adam),
    "lion": (lambda: Lion(lr=0.1, beta1=0.8, beta2=0.95, weight_decay=0.2), lion),
}

ALL = [SGD, Momentum, Nesterov, AdaGrad, RMSprop, Adam, AdamW, Lion, LAMB, Muon]


def drawn(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}


def in_one_buffer(arrays: dict[str, np.ndarray]) -> FlatDict:
    flat = FlatDict(SHAPES, np.zeros)
    for key, value in arrays.items():
        flat[key][...] = value
    return flat


@pytest.mark.parametrize("name", RULES)
def test_steps_match_the_published_recurrences(name: str) -> None:
    make, recurrence = RULES[name]
    optimizer, params, grads = make(), drawn(0), [drawn(1 + i) for i in range(STEPS)]
    arrays, start = dict(params), drawn(0)
    for g in grads:
        untouched = {key: value.copy() for key, value in g.items()}
        optimizer.update(params, g)
        assert all(np.array_equal(g[key], untouched[key]) for key in g)
    for key, p in params.items():
        assert p is arrays[key]  # in place
        form = {"decay": 0.2 if key.startswith("W") else 0.0} if name in ("adamw", "lion") else {}
        expected = recurrence(start[key], [g[key] for g in grads], **form)
        # Relative to the tensor's size: an element near zero is a difference of larger numbers.
        assert np.abs(p - expected).max() <= 1e-14 * np.abs(expected).max()
        assert np.abs(p - start[key]).min() > 1e-4


@pytest.fixture(params=["whole", "parts"])
def block(request, monkeypatch) -> None:
    """Process flat buffers at once, or in blocks of five values."""
    if request.param == "parts":
        monkeypatch.setattr(backends()["cpu"], "block", 5)


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("name", RULES)
def test_flat_update_equals_update_by_name(name: str) -> None:
    params, plain, one, two = in_one_buffer(drawn(0)), drawn(0), RULES[name][0](), RULES[name][0]()
    for i in range(STEPS):
        one.update(params, in_one_buffer(drawn(1 + i)))
        two.update(plain, drawn(1 + i))
    assert list(params) == list(SHAPES)
    for key in SHAPES:
        np.testing.assert_array_equal(params[key], plain[key])
        assert np.shares_memory(params[key], params.flat)


def test_flat_buffer_holds_every_array_once() -> None:
    params = FlatDict(SHAPES, Device().zeros)
    params.flat[...] = np.arange(params.flat.size)
    assert sorted(np.concatenate([p.ravel() for p in params.values()]).tolist()) == params.flat.tolist()
    assert {key: p.shape for key, p in params.items()} == SHAPES
    assert params.decayed.size == 3 * 4 + 4 * 2


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("flat", [True, False])
def test_weight_decay_applies_to_weights_only(flat: bool) -> None:
    params, grads = drawn(0), drawn(1)
    if flat:
        params, grads = in_one_buffer(params), in_one_buffer(grads)
    add_weight_decay(params, grads, 0.3)
    for key, before in drawn(1).items():
        expected = before + 0.3 * drawn(0)[key] if key.startswith("W") else before
        np.testing.assert_allclose(grads[key], expected, rtol=1e-15, atol=1e-16)
        np.testing.assert_array_equal(params[key], drawn(0)[key])


def test_weight_decay_pairs_parameters_and_gradients_by_name() -> None:
    params, grads = drawn(0), {"x": np.ones(3), **dict(reversed(drawn(1).items()))}
    for of in (params, in_one_buffer(params)):
        add_weight_decay(of, grads, 0.1)
    for key, before in drawn(1).items():
        expected = before + 0.2 * params[key] if key.startswith("W") else before
        np.testing.assert_allclose(grads[key], expected, rtol=1e-15, atol=1e-16)
    assert (grads["x"] == 1).all()


@pytest.mark.parametrize("most", [-1.0, 0.0])
def test_a_norm_is_limited_to_a_positive_number(most: float) -> None:
    with refused("clip_norm", most):
        clip_norm(in_one_buffer(drawn(0)), most)


def test_weight_decay_is_the_same_for_a_layers_own_parameter_names() -> None:
    params = {key: np.ones(2) for key in ("weight", "bias", "gamma", "beta")}
    AdamW(lr=0.1, weight_decay=0.5).update(params, {key: np.zeros(2) for key in params})
    assert {key: p[0] for key, p in params.items()} == {"weight": 0.95, "bias": 1, "gamma": 1, "beta": 1}


RATES = {
    "sgd": 0.9,
    "momentum": 0.1,
    "nesterov": 0.1,
    "adagrad": 1.5,
    "rmsprop": 0.1,
    "adam": 0.3,
    "adamw": 0.3,
    "lion": 0.05,
}


@pytest.mark.parametrize("name", RULES)
def test_a_quadratic_is_minimised(name: str) -> None:
    optimizer: Optimizer = RULES[name][0]()
    optimizer.lr = RATES[name]
    params = {"b1": np.array([-7.0, 2.0])}
    for step in range(400):
        optimizer.lr = RATES[name] * Cosine(warmup=0.0).factor(step, 400)
        optimizer.update(params, {"b1": params["b1"] * [0.1, 2.0]})
    assert np.abs(params["b1"]).max() < 0.05, params


def test_learning_rate_may_change_between_steps() -> None:
    for name, (make, _) in RULES.items():
        optimizer, params = make(), drawn(0)
        optimizer.update(params, drawn(1))
        before = {key: p.copy() for key, p in params.items()}
        optimizer.lr = 0.0
        optimizer.update(params, drawn(2))
        if name not in ("momentum", "nesterov"):  # the velocity continues
            assert all(np.array_equal(before[key], params[key]) for key in params), name


@pytest.mark.parametrize("name", RULES)
def test_float32_stays_float32(name: str) -> None:
    optimizer, params = RULES[name][0](), {"W1": np.ones(3, "float32")}
    optimizer.update(params, {"W1": np.ones(3, "float32")})
    assert {a.dtype for a in (params["W1"], *optimizer.state["W1"].values())} == {np.dtype("float32")}


@pytest.mark.parametrize(
    ("init", "expected"), [("he", math.sqrt(2 / 300)), ("xavier", math.sqrt(1 / 300)), (0.03, 0.03)]
)
def test_initial_weights_have_the_expected_standard_deviation(init, expected: float) -> None:
    assert std(init, 300) == pytest.approx(expected, rel=1e-15)
    w = normal(np.random.default_rng(0), (300, 200), 300, init)
    assert w.shape == (300, 200)
    assert w.std() == pytest.approx(expected, rel=0.02)
    assert abs(w.mean()) < 0.02 * expected
    np.testing.assert_array_equal(w, normal(np.random.default_rng(0), (300, 200), 300, init))


@pytest.mark.parametrize("init", ["hee", 0, -0.1, float("nan")])
def test_invalid_initializer_is_refused(init) -> None:
    with pytest.raises(UserError, match="he, xavier"):
        std(init, 10)


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("kind", ALL, ids=lambda k: k.__name__)
def test_optimizer_continues_from_a_loaded_state(kind: type[Optimizer], flat: bool) -> None:
    def arrays():
        rng = np.random.default_rng(3)
        found = FlatDict(SHAPES, Device(dtype="float64").zeros) if flat else {}
        for name, shape in SHAPES.items():
            value = rng.standard_normal(shape)
            found[name] = value if not flat else found[name]
            found[name][...] = value
        return found

    params, grads = arrays(), arrays()
    first, second = kind(0.1), kind(0.1)
    for _ in range(3):
        first.update(params, grads)
    saved, steps = first.state_dict(), first.steps
    middle = {name: param.copy() for name, param in params.items()}
    first.update(params, grads)
    expected = {name: param.copy() for name, param in params.items()}
    for name, value in middle.items():
        params[name][...] = value
    second.load_state_dict(saved, steps)
    second.update(params, grads)
    assert all(np.array_equal(params[name], value) for name, value in expected.items())


def test_state_names_each_average() -> None:
    adam = Adam(beta1=0.75, beta2=0.875)
    adam.update({"W1": np.ones(1)}, {"W1": np.full(1, 4.0)})
    assert {key: array.tolist() for key, array in adam.state_dict().items()} == {"W1/mean": [1], "W1/square_mean": [2]}


def test_state_of_another_optimizer_is_refused() -> None:
    adam = Adam()
    adam.update({"W1": np.ones(3)}, {"W1": np.ones(3)})
    momentum = Momentum()
    with pytest.raises(UserError, match=r"Momentum keeps velocity .* mean, square_mean of 'W1'"):
        momentum.load_state_dict(adam.state_dict(), adam.steps)
    assert (momentum.state, momentum.steps) == ({}, 0)


def test_state_has_the_dtype_of_the_parameters() -> None:
    optimizer = Momentum()
    optimizer.update({"W": np.ones(2, "float32")}, {"W": np.ones(2, "float64")})
    assert optimizer.state["W"]["velocity"].dtype == "float32"


def test_wrong_numbers_and_arguments_are_refused() -> None:
    for make, told in {
        lambda: Adam(lr=-1): "Adam: lr must be a number above 0, got -1",
        lambda: SGD(lr="0.1"): "SGD: lr must be a number above 0, got '0.1'",
        lambda: AdamW(beta1=1.0): "AdamW: beta1 must be a number from 0 to below 1, got 1.0",
        lambda: RMSprop(eps=float("nan")): "RMSprop: eps must be a number above 0, got nan",
        lambda: Momentum(momentun=0.5): "Momentum has no argument 'momentun': did you mean momentum?",
        lambda: Step(every=0): "Step: every must be a number above 0, got 0",
        lambda: Cosine(warmap=1): "Cosine has no argument 'warmap': did you mean warmup?",
    }.items():
        with refused(told):
            make()


def test_reprs_say_settings_and_shapes() -> None:
    assert repr(AdamW(lr=0.1)) == "AdamW(lr=0.1, beta1=0.9, beta2=0.999, eps=1e-08, weight_decay=0.01)"
    layer = Convolution(np.ones((2, 1, 3, 3)), np.ones(2), pad=1)
    assert repr(layer) == "Convolution(weight (2, 1, 3, 3), bias (2,), stride=1, pad=1)"
