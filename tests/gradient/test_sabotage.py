"""Wrong gradients of whole models: the check rejects every tensor that was tampered with, every time, and no other."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from support.narrow import FORMS, WIDTHS, narrow, to_train

from nl_nodes import Graph, Input, MulConst
from nl_nodes.verify import judge

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
    return grad[:, :, ::-1, ::-1] if grad.ndim == 4 else np.roll(grad, 1, axis=0)


def swapped(name: str, grads: Grads) -> np.ndarray | None:
    """The gradient of the next tensor of the same shape; None where there is none."""
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
def test_every_sabotaged_tensor_is_rejected(name: str, form: str) -> None:
    net, rng = narrow(name, seed=3, **FORMS[form]), np.random.default_rng(5)
    graph, feeds = to_train(net, 4, rng)
    grads = graph.run(**feeds).backward(DY)
    alike = Counter(grad.shape for grad in grads.values())
    for _ in range(3):
        assert all(r.value <= LIMIT and r.size > 0 for r in judge(graph, feeds, DY, grads, rng))
        for sabotage in SABOTAGES:
            wrong = {tensor: grad for tensor in grads if (grad := sabotage(tensor, grads)) is not None}
            expected = grads if sabotage is not swapped else [t for t in grads if alike[grads[t].shape] > 1]
            assert list(wrong) == list(expected)
            for residual in judge(graph, feeds, DY, wrong, rng):
                assert residual.value > LIMIT, (sabotage.__name__, residual)


def test_a_nan_of_the_oracle_is_rejected_whichever_direction_it_comes_from() -> None:
    graph, feeds = Graph(MulConst(Input("x"), 2)), {"x": np.ones(3)}
    grads = graph.run(**feeds).backward(np.ones(3))
    for number in range(3):
        seen = iter(range(3))

        def oracle(graph, feeds, name, direction, dy, seen=seen, number=number) -> float:
            return np.nan if next(seen) == number else 2 * direction.sum()

        (residual,) = judge(graph, feeds, np.ones(3), grads, np.random.default_rng(0), draws=3, oracle=oracle)
        assert not residual.value <= LIMIT
        assert residual.where == (number,)
