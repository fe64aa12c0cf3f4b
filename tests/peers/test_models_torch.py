"""Every model compared with the same model in PyTorch in float64: ten training steps, then inference.

All steps have one length. With plain SGD at a rate of 0.01 the difference grows from 1e-12 in the first step by up to
10 times a step in VGG16 with some forms of batch normalization, and by 100 and more in a ResNet-56 of tanh.

The largest differences, about 1e-11, occur with batch normalization. They are PyTorch's rounding errors: it sums a
mean sequentially, NumPy pairwise, and a standard deviation small relative to its mean amplifies the error.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peers.torch_models import PLANS, STAGES, TorchNetwork
from support.small_models import WIDTHS, fits

from nl_models import MODELS, build
from nl_nodes import Device

pytestmark = pytest.mark.peers

LIMIT = 1e-10
LENGTH = 1e-4
"""Of a step, over all parameters."""
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
SHAPES = {name: [(1, 28, 28), (3, 32, 32), (1, 28, 40) if "vgg" in name else (1, 20, 24)] for name in PLANS}
SHAPES |= {name: [(3, 12, 12), (1, 11, 9)] for name in STAGES}
CASES = [(name, shape, form) for name in SHAPES for shape in SHAPES[name] for form in FORMS if fits(name, form)]
CASES += [("resnet20", (3, 12, 12), {"shortcuts": False}), ("resnet18", (3, 12, 12), {"shortcuts": False})]


def test_every_model_is_compared() -> None:
    assert set(PLANS) | set(STAGES) == set(MODELS)


def norm(arrays: Iterable[np.ndarray]) -> float:
    return float(np.sqrt(sum(np.vdot(array, array) for array in arrays)))


def identifier(part: Any) -> str:
    return ("-".join(map(str, part.values())) or "plain") if isinstance(part, dict) else str(part)


@pytest.mark.parametrize(("name", "shape", "form"), CASES, ids=identifier)
def test_model_matches_pytorch(name: str, shape: tuple[int, ...], form: dict, near: Callable) -> None:
    rng = np.random.default_rng(4)
    options = {"width": WIDTHS.get(name, 4), "classes": 5, "seed": 3, "input_shape": shape}
    net = build(name, device=Device(dtype="float64"), **options, **form)
    for key, param in net.params.items():
        if not key.startswith("W"):
            param += 0.2 * rng.standard_normal(param.shape)  # otherwise all are 0 or 1, and some gradients 0
    twin = TorchNetwork(net)
    for _ in range(10):
        x, t = rng.standard_normal((8, *shape)), rng.integers(0, 5, 8)
        step = net.step(x, t)
        loss, logits, grads = twin.step(x, t)
        near(step.loss, loss, LIMIT)
        near(step.logits, logits, LIMIT)
        assert step.grads.keys() == grads.keys()
        for key, grad in grads.items():
            near(step.grads[key], grad, LIMIT)
        ours, theirs = LENGTH / norm(step.grads.values()), LENGTH / norm(map(np.asarray, grads.values()))
        for key, grad in grads.items():
            net.params[key] -= ours * step.grads[key]
            twin.params[key].data -= theirs * grad
    state = net.state_dict()
    assert state.keys() == twin.params.keys() | twin.running.keys()
    for key, tensor in {**twin.params, **twin.running}.items():
        near(state[key], tensor, LIMIT)
    expected = twin.logits(x, train=False)
    near(net.predict(x), expected, LIMIT)
    near(np.float64(net.loss(x, t)), F.cross_entropy(expected, torch.from_numpy(t)), LIMIT)
