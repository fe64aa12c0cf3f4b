"""Wrong gradients of whole models: the check rejects every changed tensor and no other."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from support.small_models import FORMS, WIDTHS, narrow, to_train

from nl_nodes import Graph, Input, Mul, Parameter, Sum
from nl_nodes.verify import DirectionalCheck, check_gradients
from nl_nodes.verify.directional import Product, worst

pytestmark = pytest.mark.gradient

Grads = dict[str, np.ndarray]
DY = np.float64(1.7)
LIMIT = 1e-10


def zeroed(name: str, grads: Grads) -> np.ndarray:
    return np.zeros_like(grads[name])


def scaled(name: str, grads: Grads) -> np.ndarray:
    return grads[name] * 1.001


def one_sign_flipped(name: str, grads: Grads) -> np.ndarray:
    wrong = grads[name].copy()
    wrong.flat[np.abs(wrong).argmax()] *= -1
    return wrong


def mirrored_or_rolled(name: str, grads: Grads) -> np.ndarray:
    grad = grads[name]
    # A kernel of 1x1 is its own mirror image.
    return grad[:, :, ::-1, ::-1] if grad.shape[2:] not in {(), (1, 1)} else np.roll(grad, 1, axis=0)


def swapped(name: str, grads: Grads) -> np.ndarray | None:
    """Return the gradient of the next tensor of the same shape, or None."""
    same = [other for other in grads if grads[other].shape == grads[name].shape]
    other = same[(same.index(name) + 1) % len(same)]
    return None if other == name else grads[other]


SABOTAGES: list[Callable[[str, Grads], np.ndarray | None]] = [
    zeroed,
    scaled,
    one_sign_flipped,
    mirrored_or_rolled,
    swapped,
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", WIDTHS)
def test_every_sabotaged_tensor_is_rejected(name: str, form: str, request: pytest.FixtureRequest) -> None:
    net, rng = narrow(name, seed=3, **FORMS[form]), np.random.default_rng(5)
    graph, feeds = to_train(net, 4, rng)
    grads = graph.run(**feeds).backward(DY)
    alike = Counter(grad.shape for grad in grads.values())
    for _ in range(3 if request.config.getoption("--thorough") else 1):
        assert all(r.value <= LIMIT and r.size > 0 for r in check_gradients(graph, feeds, DY, grads, rng))
        for sabotage in SABOTAGES:
            wrong = {tensor: grad for tensor in grads if (grad := sabotage(tensor, grads)) is not None}
            expected = grads if sabotage is not swapped else [t for t in grads if alike[grads[t].shape] > 1]
            assert list(wrong) == list(expected)
            for residual in check_gradients(graph, feeds, DY, wrong, rng):
                assert residual.value > LIMIT, (sabotage.__name__, residual)


@pytest.mark.parametrize("product", [(1.0, np.nan, 1.0), (0.0, np.nan, 0.0), (np.nan, 0.0, np.nan)])
def test_nan_in_any_direction_is_rejected(product: tuple) -> None:
    right, wrong = Product(1.0, 1.0, 1.0), Product(*product)
    for number in range(3):
        products = [right, right, right]
        products[number] = wrong
        assert not wrong.residual <= LIMIT
        assert worst(products) == (number, wrong)


def test_residual_is_the_worst_of_several_directions() -> None:
    graph, x = Graph(Mul(Input("x"), Input("x2"))), np.ones(2)
    feeds, directions = {"x": x, "x2": x}, [np.array([1.0, -1.0]), np.array([1.0, 1.0])]
    for number in range(2):  # both elements are too large by a tenth, which cancels along one direction
        products = DirectionalCheck([(graph, feeds, x)]).along_each("x", x * 1.1, directions)
        assert worst(products) == (1 - number, products[1 - number])
        assert products[1 - number].residual == pytest.approx(0.1)
        directions.reverse()


def test_a_sum_of_outputs_is_checked_along_several_leaves_at_once() -> None:
    a, b = Parameter(np.array([2.0, 3.0]), "a"), Parameter(np.array([5.0]), "b")
    graph = Graph(Sum(Mul(Mul(a, b), Input("x", gradient=False))))
    parts = [(graph, {"x": np.array([1.0, 1.0])}, 0.25), (graph, {"x": np.array([1.0, 3.0])}, 0.75)]
    right = {"a": np.array([5.0, 12.5]), "b": np.array([9.5])}
    check, direction = DirectionalCheck(parts), {"a": np.array([1.0, -1.0]), "b": np.array([1.0])}
    assert check.along(right, direction).residual <= 1e-15
    exchanged = {"a": right["a"][::-1], "b": right["b"]}
    assert check.along(exchanged, direction).residual == pytest.approx(15 / np.sqrt(25 + 12.5**2 + 9.5**2))
