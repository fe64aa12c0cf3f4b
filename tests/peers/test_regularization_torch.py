"""Clipping and averaging of weights beside PyTorch's in float64."""

import numpy as np
import pytest
import torch
from torch.optim.swa_utils import AveragedModel

from nl_layers import FlatDict, clip_norm
from nl_models import build
from nl_nodes import Device
from nl_training.training.average import WeightAverage

pytestmark = pytest.mark.peers

SHAPES = {"W1": (30, 20), "b1": (20,), "W2": (20, 3), "b2": (3,)}


@pytest.mark.parametrize("most", [1e-3, 1.0, 24.0, 26.0, 1e3])
def test_clipping_matches_pytorch(most: float) -> None:
    rng, grads = np.random.default_rng(0), FlatDict(SHAPES, np.zeros)
    grads.flat = rng.standard_normal(grads.flat.size)
    leaves = [torch.zeros(shape, dtype=torch.float64) for shape in SHAPES.values()]
    for leaf, grad in zip(leaves, grads.values(), strict=True):
        leaf.grad = torch.tensor(grad)
    expected = torch.nn.utils.clip_grad_norm_(leaves, most)
    assert clip_norm(grads, most) == pytest.approx(float(expected), rel=1e-14)
    for grad, leaf in zip(grads.values(), leaves, strict=True):
        np.testing.assert_allclose(grad, leaf.grad.numpy(), rtol=1e-14)


def test_averages_match_pytorch() -> None:
    rng = np.random.default_rng(0)
    net = build("mlp", Device(dtype="float64", threads=1), input_shape=(4,), classes=3, hidden=[5], batch_norm=True)
    model = torch.nn.Module()
    for name, value in net.state_dict().items():
        model.register_buffer(name, torch.tensor(value))

    def averaged(average: torch.Tensor, value: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
        decay = min(0.7, int(count) / (9 + int(count)))  # PyTorch counts the first copy too
        return decay * average + (1 - decay) * value

    theirs, ours = AveragedModel(model, avg_fn=averaged, use_buffers=True), WeightAverage(net, 0.7)
    theirs.update_parameters(model)  # the first one copies
    for _ in range(40):
        state = {name: rng.standard_normal(value.shape) for name, value in net.state_dict().items()}
        net.load_state_dict(state)
        model.load_state_dict({name: torch.tensor(value) for name, value in state.items()})
        ours.update()
        theirs.update_parameters(model)
    expected = dict(theirs.module.named_buffers())
    for name, value in ours.net.state_dict().items():
        np.testing.assert_allclose(value, expected[name].numpy(), rtol=0, atol=1e-13)
