"""Every optimizer compared with PyTorch's in float64, over 20 steps with a changing learning rate."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from nl_layers import add_weight_decay, optimizers
from nl_layers.optimizers import SGD, AdaGrad, Adam, AdamW, Momentum, Nesterov, Optimizer, RMSprop

pytestmark = pytest.mark.peers

LIMIT = 1e-12
SHAPES = {"W1": (3, 4), "b1": (4,), "gamma1": (4,), "beta1": (4,), "W2": (4, 2), "b2": (2,)}
RULES: dict[str, tuple[Callable[[], Optimizer], Callable[..., torch.optim.Optimizer], dict]] = {
    "SGD": (lambda: SGD(0.1), torch.optim.SGD, {}),
    "Momentum": (lambda: Momentum(0.1, 0.8), torch.optim.SGD, {"momentum": 0.8}),
    "Nesterov": (lambda: Nesterov(0.1, 0.8), torch.optim.SGD, {"momentum": 0.8, "nesterov": True}),
    "AdaGrad": (lambda: AdaGrad(0.1, 1e-6), torch.optim.Adagrad, {"eps": 1e-6}),
    "RMSprop": (lambda: RMSprop(0.1, 0.9, 1e-6), torch.optim.RMSprop, {"alpha": 0.9, "eps": 1e-6}),
    "Adam": (lambda: Adam(0.1, 0.8, 0.95, 1e-6), torch.optim.Adam, {"betas": (0.8, 0.95), "eps": 1e-6}),
    "AdamW": (lambda: AdamW(0.1, 0.8, 0.95, 1e-6, 0.2), torch.optim.AdamW, {"betas": (0.8, 0.95), "eps": 1e-6}),
}


def test_every_optimizer_is_compared() -> None:
    public = {name for name, value in vars(optimizers).items() if isinstance(value, type)}
    ours = {name for name in public if issubclass(getattr(optimizers, name), Optimizer)} - {"Optimizer"}
    assert set(RULES) == ours - {"LAMB", "Lion", "Muon"}  # PyTorch has no LAMB and Lion; test_muon_torch.py
    assert all(type(make()).__name__ == name for name, (make, _, _) in RULES.items())


@pytest.mark.parametrize("decay", [0.0, 0.2], ids=["plain", "decay"])
@pytest.mark.parametrize("name", RULES)
def test_steps_match_pytorch(name: str, decay: float, near: Callable) -> None:
    """The recurrences are the same, in other variables for optimizers with a velocity.

    SGD, AdaGrad, Adam: the same. RMSprop: the same, eps outside the root in both. AdamW: the same, decoupled from the
    gradient; here parameters without decay are a parameter group of PyTorch. The others' decay is in the gradient.

    Momentum, Nesterov: PyTorch's buffer b <- m b + g is without the learning rate, ours v <- m v - lr g is with it, so
    v = -lr b, and both of Nesterov's forms become p <- p - lr (g + m b). They differ when the learning rate changes:
    PyTorch's past gradients count at the new rate, ours at the rates of their own steps. Scaling b by old / new rate
    removes that difference.
    """
    make, peer, options = RULES[name]
    rng, ours = np.random.default_rng(6), make()
    params = {key: rng.standard_normal(shape) for key, shape in SHAPES.items()}
    if name == "AdamW":
        ours.weight_decay = decay
    tensors = {key: torch.tensor(value) for key, value in params.items()}
    groups = [{"params": [p], "weight_decay": decay if key.startswith("W") else 0.0} for key, p in tensors.items()]
    theirs = peer(groups, lr=0.1, **options)
    for step in range(20):
        if step == 9:
            change_rate(ours, theirs, 0.03)
        grads = {key: rng.standard_normal(shape) for key, shape in SHAPES.items()}
        for key, tensor in tensors.items():
            tensor.grad = torch.tensor(grads[key])
        if name != "AdamW":
            add_weight_decay(params, grads, decay)
        ours.update(params, grads)
        theirs.step()
        for key, tensor in tensors.items():
            near(params[key], tensor, LIMIT)


def change_rate(ours: Optimizer, theirs: torch.optim.Optimizer, rate: float) -> None:
    for state in theirs.state.values():
        if state.get("momentum_buffer") is not None:
            state["momentum_buffer"] *= ours.lr / rate
    ours.lr = rate
    for group in theirs.param_groups:
        group["lr"] = rate
