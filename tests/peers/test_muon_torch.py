"""Muon compared with PyTorch's, over 20 steps with a changing learning rate."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from nl_layers.optimizers import Muon

pytestmark = pytest.mark.peers

SHAPES = {"W1": (4, 1, 2, 2), "b1": (4,), "W2": (6, 4, 2, 2), "W3": (24, 5), "b3": (5,), "W4": (5, 7), "W5": (7, 3)}
HIDDEN = ["W2", "W3", "W4"]
EXACT, BFLOAT16 = 1e-11, 0.05


@pytest.mark.parametrize(("name", "limit"), [("Muon in float64", EXACT), ("Muon in bfloat16", BFLOAT16)])
def test_steps_match_pytorch(name: str, limit: float, near: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch takes matrices only, and AdamW the rest; an affine layer's weight is (out, in) there.

    It orthogonalizes in bfloat16, whose rounding, 0.4 %, differs from the steps here by a few percent of their size;
    with its conversion to bfloat16 replaced by a copy, all of it is in float64 and agrees to rounding.
    """
    if limit == EXACT:
        monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    rng, ours = np.random.default_rng(7), Muon(0.1, 0.9, 0.8, 0.95, 1e-6, weight_decay=0.2)
    params = {key: rng.standard_normal(shape) for key, shape in SHAPES.items()}
    start = {key: value.copy() for key, value in params.items()}
    tensors = {key: torch.tensor(matrix(value) if key in HIDDEN else value) for key, value in params.items()}
    hidden = torch.optim.Muon(
        [tensors[key] for key in HIDDEN], lr=0.1, momentum=0.9, weight_decay=0.2, adjust_lr_fn="match_rms_adamw"
    )
    rest = [
        {"params": [tensor], "weight_decay": 0.2 if key.startswith("W") else 0.0}
        for key, tensor in tensors.items()
        if key not in HIDDEN
    ]
    theirs = [hidden, torch.optim.AdamW(rest, lr=0.1, betas=(0.8, 0.95), eps=1e-6)]
    for step in range(20):
        ours.lr = 0.1 / (1 + step)
        grads = {key: rng.standard_normal(shape) for key, shape in SHAPES.items()}
        for key, tensor in tensors.items():
            tensor.grad = torch.tensor(matrix(grads[key]) if key in HIDDEN else grads[key])
        ours.update(params, grads)
        for optimizer in theirs:
            for group in optimizer.param_groups:
                group["lr"] = ours.lr
            optimizer.step()
        for key, tensor in tensors.items():
            first = torch.tensor(matrix(start[key]) if key in HIDDEN else start[key])
            near((matrix(params[key]) if key in HIDDEN else params[key]) - first.numpy(), tensor - first, limit)


def matrix(weight: np.ndarray) -> np.ndarray:
    """Return a weight as PyTorch's matrix, (out, in)."""
    return weight.T.copy() if weight.ndim == 2 else weight.reshape(len(weight), -1)
