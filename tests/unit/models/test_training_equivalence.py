"""Training with the node graph equals training with closed-form formulas."""

from itertools import pairwise

import numpy as np

from nl_layers.optimizers import SGD
from nl_models import mlp
from nl_nodes import Device

SIZES = (16, 12, 8, 5)
LR = 0.2


class ClosedForm:
    """A perceptron without nodes: ReLU between affine layers, softmax cross-entropy, SGD."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        pairs = list(pairwise(SIZES))
        self.w = [rng.standard_normal(pair) * np.sqrt(2 / pair[0]) for pair in pairs]
        self.b = [np.zeros(out) for _, out in pairs]

    def step(self, x: np.ndarray, t: np.ndarray) -> float:
        """Make one step and return the loss before it."""
        hidden = [x.reshape(len(x), -1)]
        for w, b in zip(self.w[:-1], self.b[:-1], strict=True):
            hidden.append(np.maximum(hidden[-1] @ w + b, 0))
        logits = hidden[-1] @ self.w[-1] + self.b[-1]
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        at = np.arange(len(x)), t
        loss = -np.log(p[at]).mean()
        p[at] -= 1
        delta = p / len(x)
        for i in reversed(range(len(self.w))):
            dw, db = hidden[i].T @ delta, delta.sum(0)
            delta = (delta @ self.w[i].T) * (hidden[i] > 0)
            self.w[i] -= LR * dw
            self.b[i] -= LR * db
        return float(loss)


def test_hundred_steps_of_sgd_match_the_closed_form() -> None:
    net = mlp((1, 4, 4), SIZES[-1], hidden=SIZES[1:-1], seed=4, device=Device(dtype="float64"))
    closed, optimizer, rng = ClosedForm(4), SGD(LR), np.random.default_rng(7)
    x = rng.standard_normal((64, 1, 4, 4))
    t = np.abs(x[:, 0, 0]).argmax(1) + (x[:, 0, 1, 0] > 0)
    losses = []
    for _ in range(100):
        batch = rng.permutation(64)[:16]
        step = net.step(x[batch], t[batch])
        losses.append((float(step.loss), closed.step(x[batch], t[batch])))
        optimizer.update(net.params, step.grads)
    ours, theirs = np.array(losses).T
    assert np.abs(ours - theirs).max() <= 1e-10
    assert theirs[-10:].mean() < 0.5 * theirs[:10].mean()  # the loss falls, so that a zero gradient cannot pass
    for i, (w, b) in enumerate(zip(closed.w, closed.b, strict=True), 1):
        np.testing.assert_allclose(net.params[f"W{i}"], w, atol=1e-10)
        np.testing.assert_allclose(net.params[f"b{i}"], b, atol=1e-10)
