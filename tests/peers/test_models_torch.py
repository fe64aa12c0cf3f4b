"""Every model compared with the same model in PyTorch in float64: two training steps, then inference.

The largest differences, about 1e-11, occur with batch normalization. They are PyTorch's rounding errors: it sums a
mean sequentially, NumPy pairwise, and a standard deviation small relative to its mean amplifies the error.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peers.torch_models import PLANS, TorchNetwork

from nl_models import MODELS, build
from nl_nodes import Device

pytestmark = pytest.mark.peers

LIMIT = 1e-10
RATE = 0.01
NARROW = {"mlp": 10, "cnn3": 8, "simple_convnet": 5, "cnn8": 8, "vgg11": 4, "vgg16": 4}
FORMS = [
    {},
    {"activation": "sigmoid", "init": "xavier"},
    {"activation": "tanh", "init": 0.1},
    {"dropout": 0.3},
    {"batch_norm": True, "dropout": 0.5},
    {"batch_norm": "before_activation", "activation": "sigmoid", "init": "xavier"},
    {"batch_norm": "before_affine", "activation": "tanh", "init": "xavier"},
    {"batch_norm": "before_affine"},
    {"batch_norm": "after_activation", "init": 0.1},
]
# Five poolings reduce 20x24 pixels to none.
SHAPES = {name: [(1, 28, 28), (3, 32, 32), (1, 28, 40) if "vgg" in name else (1, 20, 24)] for name in NARROW}


def test_every_model_is_compared() -> None:
    assert set(PLANS) == set(NARROW) == set(MODELS)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(map(str, form.values())) or "plain")
@pytest.mark.parametrize(("name", "shape"), [(name, shape) for name in NARROW for shape in SHAPES[name]])
def test_model_matches_pytorch(name: str, shape: tuple[int, ...], form: dict, near: Callable) -> None:
    rng = np.random.default_rng(4)
    options = {"width": NARROW[name], "classes": 5, "seed": 3, "input_shape": shape}
    net = build(name, device=Device(dtype="float64"), **options, **form)
    for key, param in net.params.items():
        if not key.startswith("W"):
            param += 0.2 * rng.standard_normal(param.shape)  # otherwise all are 0 or 1, and some gradients 0
    twin = TorchNetwork(net)
    for _ in range(2):
        x, t = rng.standard_normal((8, *shape)), rng.integers(0, 5, 8)
        step = net.step(x, t)
        loss, logits, grads = twin.step(x, t)
        near(step.loss, loss, LIMIT)
        near(step.logits, logits, LIMIT)
        assert step.grads.keys() == grads.keys()
        for key, grad in grads.items():
            near(step.grads[key], grad, LIMIT)
            net.params[key] -= RATE * step.grads[key]
            twin.params[key].data -= RATE * grad
    state = net.state_dict()
    assert state.keys() == twin.params.keys() | twin.running.keys()
    for key, tensor in {**twin.params, **twin.running}.items():
        near(state[key], tensor, LIMIT)
    expected = twin.logits(x, train=False)
    near(net.predict(x), expected, LIMIT)
    near(np.float64(net.loss(x, t)), F.cross_entropy(expected, torch.from_numpy(t)), LIMIT)
