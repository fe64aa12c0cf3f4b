"""Products with the Hessian compared with PyTorch's double backward in float64."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peers.torch_models import TorchNetwork

from nl_models import build
from nl_nodes import Device

pytestmark = pytest.mark.peers

LIMIT = 1e-10
FORMS = [
    {"activation": "sigmoid", "init": "xavier"},
    {"activation": "tanh", "init": "xavier"},
    {},
    {"batch_norm": True, "dropout": 0.3},
    {"batch_norm": "after_activation", "activation": "tanh", "init": "xavier"},
]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(map(str, form.values())) or "plain")
@pytest.mark.parametrize("name", ["mlp", "cnn3", "cnn8"])
def test_hessian_product_matches_pytorch(name: str, form: dict, near: Callable) -> None:
    rng = np.random.default_rng(5)
    net = build(name, width=8, classes=5, seed=3, input_shape=(1, 28, 28), device=Device(dtype="float64"), **form)
    for key, param in net.params.items():
        if not key.startswith("W"):
            param += 0.2 * rng.standard_normal(param.shape)
    x, t = rng.standard_normal((8, 1, 28, 28)), rng.integers(0, 5, 8)
    v = {key: rng.standard_normal(param.shape) for key, param in net.params.items()}
    twin = TorchNetwork(net)

    def loss(*params: torch.Tensor) -> torch.Tensor:
        twin.params = dict(zip(net.params, params, strict=True))
        return F.cross_entropy(twin.logits(x, train=True), torch.from_numpy(t))

    tensors = tuple(twin.params.values())
    expected = torch.autograd.functional.hvp(loss, tensors, tuple(torch.from_numpy(v[key]) for key in net.params))[1]
    ours = net.hessian_product(x, t, v)
    for key, product in zip(net.params, expected, strict=True):
        near(ours[key], product, LIMIT)
