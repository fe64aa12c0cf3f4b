"""Lion, LAMB and Muon compared with their published recurrences in float64, over 20 steps with a changing rate."""

from collections.abc import Callable, Iterator
from typing import ClassVar

import numpy as np
import pytest
from support.assertions import refused

from nl_layers import FlatDict
from nl_layers.optimizers import LAMB, Adam, AdamW, Lion, Muon, Optimizer
from nl_layers.optimizers.layerwise import orthogonalized

SHAPES = {
    "W1": (3, 1, 2, 2), "b1": (3,), "gamma1": (3,), "beta1": (3,), "W2": (4, 3, 2, 2), "b2": (4,), "W3": (12, 4),
    "b3": (4,), "W4": (4, 6), "b4": (6,), "W5": (6, 3), "b5": (3,),
}  # fmt: skip
HIDDEN = ["W2", "W3", "W4"]
STEPS, DECAY = 20, 0.2
Steps = Iterator[tuple[np.ndarray, float]]


def lion(p: np.ndarray, steps: Steps, name: str, b1: float = 0.8, b2: float = 0.95) -> np.ndarray:
    m = 0.0 * p
    for g, lr in steps:
        c = b1 * m + (1 - b1) * g
        p = p - lr * (np.where(c > 0, 1.0, np.where(c < 0, -1.0, 0.0)) + decay(name) * p)
        m = b2 * m + (1 - b2) * g
    return p


def adam(steps: Steps, b1: float, b2: float, eps: float) -> Iterator[tuple[np.ndarray, float]]:
    m = v = 0.0
    for t, (g, lr) in enumerate(steps, 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        yield m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps), lr


def lamb(p: np.ndarray, steps: Steps, name: str) -> np.ndarray:
    for r, lr in adam(steps, 0.8, 0.95, 1e-6):
        u = r + decay(name) * p
        ratio = np.linalg.norm(p) / np.linalg.norm(u) if name.startswith("W") else 1.0
        p = p - lr * ratio * u
    return p


def muon(p: np.ndarray, steps: Steps, name: str) -> np.ndarray:
    """Return the result of Muon's steps, with the larger Gram matrix for tall ones, without transposition."""
    if name not in HIDDEN:
        for r, lr in adam(steps, 0.8, 0.95, 1e-6):
            p = p - lr * (r + decay(name) * p)
        return p
    rows, columns = len(p), p[0].size
    buffer = np.zeros((rows, columns))
    for g, lr in steps:
        g = g.reshape(rows, columns)
        buffer = 0.9 * buffer + 0.1 * g
        x = 0.9 * buffer + 0.1 * g
        x = x / np.linalg.norm(x)
        for _ in range(5):
            gram = x.T @ x
            x = x @ (3.4445 * np.eye(columns) - 4.7750 * gram + 2.0315 * gram @ gram)
        p = p - lr * (DECAY * p + 0.2 * max(rows, columns) ** 0.5 * x.reshape(p.shape))
    return p


def decay(name: str) -> float:
    return DECAY if name.startswith("W") else 0.0


RULES: dict[str, tuple[Callable[[], Optimizer], Callable[..., np.ndarray]]] = {
    "lion": (lambda: Lion(0.1, 0.8, 0.95, DECAY), lion),
    "lamb": (lambda: LAMB(0.1, 0.8, 0.95, 1e-6, DECAY), lamb),
    "muon": (lambda: Muon(0.1, 0.9, 0.8, 0.95, 1e-6, DECAY), muon),
}


def drawn(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}


def flat(arrays: dict[str, np.ndarray]) -> FlatDict:
    held = FlatDict(SHAPES, np.zeros)
    for name, value in arrays.items():
        held[name] = value
    return held


def rate(step: int) -> float:
    return 0.1 / (1 + step)


@pytest.mark.parametrize("kind", [dict, flat])
@pytest.mark.parametrize("name", RULES)
def test_steps_match_the_published_recurrences(name: str, kind: Callable) -> None:
    make, recurrence = RULES[name]
    optimizer, params, grads = make(), kind(drawn(0)), [drawn(1 + i) for i in range(STEPS)]
    for step, g in enumerate(grads):
        optimizer.lr = rate(step)
        optimizer.update(params, kind(g))
    for key, p in params.items():
        start = drawn(0)[key]
        expected = recurrence(start, ((g[key], rate(step)) for step, g in enumerate(grads)), key)
        assert np.abs(p - expected).max() <= 1e-12 * np.abs(expected).max(), key
        assert np.abs(p - start).max() > 0.05


@pytest.mark.parametrize("name", RULES)
def test_steps_of_one_buffer_are_those_by_name(name: str) -> None:
    one, two, params, plain = RULES[name][0](), RULES[name][0](), flat(drawn(0)), drawn(0)
    for i in range(5):
        one.update(params, flat(drawn(1 + i)))
        two.update(plain, drawn(1 + i))
    for key in SHAPES:
        np.testing.assert_array_equal(params[key], plain[key])


@pytest.mark.parametrize("name", RULES)
def test_a_loaded_state_in_any_order_continues_to_the_bit(name: str) -> None:
    first, second, params = RULES[name][0](), RULES[name][0](), drawn(0)
    for i in range(3):
        first.update(params, drawn(1 + i))
    copies = {key: value.copy() for key, value in params.items()}
    second.load_state_dict(dict(reversed(first.state_dict().items())), first.steps)
    first.update(params, drawn(9))
    second.update(copies, drawn(9))
    for key in SHAPES:
        np.testing.assert_array_equal(params[key], copies[key])


@pytest.mark.parametrize("name", RULES)
def test_zero_gradients_of_zero_weights_change_nothing(name: str) -> None:
    params = {key: np.zeros(shape, "float32") for key, shape in SHAPES.items()}
    optimizer = RULES[name][0]()
    for _ in range(2):
        optimizer.update(params, {key: np.zeros(shape, "float32") for key, shape in SHAPES.items()})
    assert not any(p.any() for p in params.values())
    assert {p.dtype for p in params.values()} == {np.dtype("float32")}


def test_hidden_weights_keep_a_momentum_and_all_others_what_adam_keeps() -> None:
    optimizer = Muon()
    optimizer.update(drawn(0), drawn(1))
    assert [name for name, slots in optimizer.state.items() if slots.keys() == {"momentum"}] == HIDDEN
    assert all(slots.keys() == {"mean", "square_mean"} for name, slots in optimizer.state.items() if name not in HIDDEN)


def test_a_state_that_is_neither_is_refused() -> None:
    lion = Lion()
    lion.update(drawn(0), drawn(1))
    with refused("Muon keeps mean, square_mean or momentum of each parameter; this state has mean of 'W1'"):
        Muon().load_state_dict(lion.state_dict(), 1)


def test_a_state_with_other_roles_is_refused_at_the_next_step() -> None:
    adamw, muon = AdamW(), Muon()
    adamw.update(drawn(0), drawn(1))
    muon.load_state_dict(adamw.state_dict(), 1)
    with refused(f"Muon keeps momentum of {HIDDEN[0]!r}; its state has mean, square_mean"):
        muon.update(drawn(0), drawn(1))


@pytest.mark.parametrize("kind", [Adam, Muon])
@pytest.mark.parametrize("flat", [True, False])
def test_a_state_of_other_shapes_is_refused_and_nothing_changes(kind: type[Adam], flat: bool) -> None:
    def arrays(width: int) -> dict[str, np.ndarray]:
        shapes = {"W1": (2, width), "b1": (width,), "W2": (width, 2)}
        return FlatDict(shapes, np.ones) if flat else {name: np.ones(shape) for name, shape in shapes.items()}

    optimizer, params = kind(), arrays(4)
    optimizer.update(arrays(3), arrays(3))
    of = "" if flat and kind is Adam else " of 'W1'"
    with refused(f"{kind.__name__} has a mean{of} of shape (", "trained another network", "make a new optimizer"):
        optimizer.update(params, arrays(4))
    assert optimizer.steps == 1
    assert all((param == 1).all() for param in params.values())


def test_gradients_that_do_not_fit_are_refused() -> None:
    params = {"W1": np.ones((2, 3)), "b1": np.ones(3)}
    optimizer = Adam()
    with refused("no gradient of 'b1'"):
        optimizer.update(params, {"W1": np.ones((2, 3))})
    with refused("'b1'", "(1,)", "(3,)"):
        optimizer.update(params, {"W1": np.ones((2, 3)), "b1": np.ones(1)})
    assert optimizer.steps == 0
    assert all((param == 1).all() for param in params.values())


@pytest.mark.parametrize("flat_first", [True, False])
def test_parameters_of_a_network_and_a_plain_dictionary_are_not_mixed(flat_first: bool) -> None:
    params = FlatDict({"W1": (2, 3)}, np.ones)
    kinds = [params, dict(params)]
    optimizer = Adam()
    optimizer.update(params, kinds[not flat_first])
    with refused("Adam", "plain dictionary"):
        optimizer.update(params, kinds[flat_first])


def test_a_network_of_two_weights_trains_like_adamw() -> None:
    shapes = {"W1": (3, 4), "b1": (4,), "W2": (4, 2)}
    rng = np.random.default_rng(0)
    start, g = ({name: rng.standard_normal(shape) for name, shape in shapes.items()} for _ in range(2))
    one, two = ({name: value.copy() for name, value in start.items()} for _ in range(2))
    Muon(weight_decay=0.3).update(one, g)
    AdamW(weight_decay=0.3).update(two, g)
    for name in shapes:
        np.testing.assert_array_equal(one[name], two[name])


@pytest.mark.parametrize("shape", [(5, 8), (8, 5), (6, 6)])
def test_orthogonalized_singular_values_are_about_one(shape: tuple[int, int]) -> None:
    matrix = np.random.default_rng(1).standard_normal(shape)
    u, values, v = np.linalg.svd(matrix, full_matrices=False)
    assert values.max() / values.min() > 2
    inner = u.T @ orthogonalized(matrix) @ v.T
    assert np.abs(inner - np.diag(np.diag(inner))).max() < 1e-12
    assert np.all((np.diag(inner) > 0.65) & (np.diag(inner) < 1.25))


class Counted(np.ndarray):
    """An array whose products are listed by their shapes."""

    products: ClassVar[list[tuple[int, ...]]] = []

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        plain = [np.asarray(x) for x in inputs]
        found = getattr(ufunc, method)(*plain, **kwargs)
        if ufunc is np.matmul:
            self.products.append(found.shape)
        return np.asarray(found).view(Counted)


@pytest.mark.parametrize("shape", [(3, 8), (8, 3)])
def test_orthogonalized_makes_the_smaller_gram_matrix(shape: tuple[int, int]) -> None:
    Counted.products.clear()
    orthogonalized(np.random.default_rng(1).standard_normal(shape).view(Counted))
    assert set(Counted.products) == {(3, 3), (3, 8)}


def test_orthogonalized_keeps_the_dtype() -> None:
    assert orthogonalized(np.ones((3, 8), np.float32)).dtype == np.float32


def test_steps_do_not_depend_on_the_size_of_gradients() -> None:
    for make in (Lion, Muon, LAMB):
        one, two = drawn(0), drawn(0)
        for params, scale in ((one, 1.0), (two, 1e3)):
            make(0.1).update(params, {key: scale * g for key, g in drawn(1).items()})
        for key in SHAPES:
            np.testing.assert_allclose(one[key], two[key], atol=1e-4)


def test_a_trust_ratio_makes_the_first_step_a_share_of_the_weight() -> None:
    params, start = drawn(0), drawn(0)
    LAMB(0.01, weight_decay=0.0).update(params, drawn(1))
    for key in SHAPES:
        moved = np.linalg.norm(params[key] - start[key])
        reference = np.linalg.norm(start[key]) if key.startswith("W") else np.sqrt(start[key].size)
        assert moved == pytest.approx(0.01 * reference, rel=1e-4), key


def test_a_trust_ratio_is_known_for_small_weights_and_not_for_a_step_of_zero() -> None:
    params = {"W1": np.full((2, 3), 1e-3)}
    LAMB(0.01, weight_decay=0.0).update(params, {"W1": np.zeros((2, 3))})
    np.testing.assert_array_equal(params["W1"], 1e-3)
    LAMB(0.01, weight_decay=0.0).update(params, {"W1": np.full((2, 3), 4.0)})
    np.testing.assert_allclose(params["W1"], 0.99e-3, rtol=1e-6)


@pytest.mark.parametrize("size", [1e-32, 1e-29, 1e-26])
def test_a_trust_ratio_is_right_where_squares_underflow(size: float) -> None:
    gradient = (size * drawn(1)["W2"]).astype(np.float32)
    start = drawn(0)["W2"].astype(np.float32)
    params = {"W2": start.copy()}
    LAMB(0.1, weight_decay=0.0).update(params, {"W2": gradient})
    direction = gradient / np.linalg.norm(gradient.astype(np.float64))
    np.testing.assert_allclose(params["W2"], start - 0.1 * np.linalg.norm(start) * direction, rtol=1e-5)


@pytest.mark.parametrize(("eps", "size"), [(1.0, 1e-39), (1e-3, 1e-42), (1e-6, 3e-45)])
def test_a_step_scaled_up_from_the_smallest_gradients_is_finite(eps: float, size: float) -> None:
    params = {"W2": np.full((50, 50), 2.0, np.float32)}
    for _ in range(20):
        LAMB(0.1, eps=eps, weight_decay=0.0).update(params, {"W2": np.full((50, 50), size, np.float32)})
    assert np.all((params["W2"] > 0) & (params["W2"] <= 2))


def test_a_huge_momentum_is_orthogonalized() -> None:
    matrix = np.random.default_rng(1).standard_normal((3, 8)).astype(np.float32)
    np.testing.assert_allclose(orthogonalized(np.float32(1e25) * matrix), orthogonalized(matrix), atol=1e-5)


def test_zero_weights_take_a_step_without_a_trust_ratio() -> None:
    params = {name: np.zeros_like(value) for name, value in drawn(0).items()}
    LAMB(lr=0.1, weight_decay=0.0).update(params, drawn(1))
    for p in params.values():
        np.testing.assert_allclose(np.abs(p), 0.1, rtol=1e-3)


def test_wrong_numbers_are_refused() -> None:
    for make, told in {
        lambda: Lion(beta2=1.0): "Lion: beta2 must be a number from 0 to below 1, got 1.0",
        lambda: Lion(weight_decay=-1): "Lion: weight_decay must be a number, 0 or more, got -1",
        lambda: LAMB(weight_decay=-1): "LAMB: weight_decay must be a number, 0 or more, got -1",
        lambda: Muon(momentum=1): "Muon: momentum must be a number from 0 to below 1, got 1",
        lambda: Muon(nesterov=True): "Muon has no argument 'nesterov'",
    }.items():
        with refused(told):
            make()


def test_elementwise_optimizers_are_known() -> None:
    assert (Lion.elementwise, Adam.elementwise, LAMB.elementwise, Muon.elementwise) == (True, True, False, False)
