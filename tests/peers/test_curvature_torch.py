"""Products with the Hessian and the Gauss-Newton matrix compared with PyTorch's derivatives in float64."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peers.torch_models import TorchNetwork

from nl_models import Curvature, build
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


class Twins:
    """A network and its images, labels and vectors, with the same functions in PyTorch.

    Attributes:
        tensors: the parameters in PyTorch.
        directions: the vectors in PyTorch.
    """

    def __init__(self, name: str, form: dict) -> None:
        rng = np.random.default_rng(5)
        device = Device(dtype="float64")
        self.net = net = build(name, width=8, classes=5, seed=3, input_shape=(1, 28, 28), device=device, **form)
        for key, param in net.params.items():
            if not key.startswith("W"):
                param += 0.2 * rng.standard_normal(param.shape)
        self.x, self.t = rng.standard_normal((8, 1, 28, 28)), rng.integers(0, 5, 8)
        self.v = {key: rng.standard_normal(param.shape) for key, param in net.params.items()}
        self._torch = TorchNetwork(net)
        self.tensors = tuple(self._torch.params.values())
        self.directions = tuple(torch.from_numpy(self.v[key]) for key in net.params)

    def logits(self, *params: torch.Tensor) -> torch.Tensor:
        self._torch.params = dict(zip(self.net.params, params, strict=True))
        return self._torch.logits(self.x, train=True)

    def loss_of(self, logits: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits, torch.from_numpy(self.t))

    def loss(self, *params: torch.Tensor) -> torch.Tensor:
        return self.loss_of(self.logits(*params))


@pytest.fixture(params=FORMS, ids=lambda form: "-".join(map(str, form.values())) or "plain")
def form(request: pytest.FixtureRequest) -> dict:
    return request.param


@pytest.mark.parametrize("name", ["mlp", "cnn3", "cnn8"])
def test_hessian_product_matches_pytorch(name: str, form: dict, near: Callable) -> None:
    twins = Twins(name, form)
    expected = torch.autograd.functional.hvp(twins.loss, twins.tensors, twins.directions)[1]
    ours = twins.net.hessian_product(twins.x, twins.t, twins.v)
    for key, product in zip(twins.net.params, expected, strict=True):
        near(ours[key], product, LIMIT)


@pytest.mark.parametrize("name", ["mlp", "cnn3", "cnn8"])
def test_gauss_newton_product_matches_pytorch(name: str, form: dict, near: Callable) -> None:
    twins = Twins(name, form)
    derivatives = torch.autograd.functional
    logits, along = derivatives.jvp(twins.logits, twins.tensors, twins.directions)
    curved = derivatives.hvp(twins.loss_of, logits, along)[1]
    expected = derivatives.vjp(twins.logits, twins.tensors, curved)[1]
    ours = Curvature(twins.net, twins.x, twins.t, gauss_newton=True).named_product(twins.v)
    for key, product in zip(twins.net.params, expected, strict=True):
        near(ours[key], product, LIMIT)
