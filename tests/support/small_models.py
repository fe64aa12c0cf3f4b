"""Every model in a narrow form that is verified quickly, with random images and labels."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from nl_models import MODELS, Network, build
from nl_nodes import Device, Graph

WIDTHS = {"mlp": 10, "cnn3": 8, "simple_convnet": 5, "cnn8": 8, "vgg11": 4, "vgg16": 4, "resnet20": 4, "resnet18": 4}
DEEPER = {"resnet32", "resnet44", "resnet56"}
"""Models that are resnet20 with more blocks."""
FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "batch norm": {"batch_norm": "before_activation"},
    "dropout": {"dropout": 0.3},
}
CLASSES = 4
assert set(WIDTHS) | DEEPER == set(MODELS)


def fits(name: str, form: Mapping[str, Any]) -> bool:
    """Return whether a model takes these options: residual networks have a position of batch norm."""
    return "resnet" not in name or form.get("batch_norm", True) in (False, True, "before_activation")


def narrow(name: str, seed: int, **form: Any) -> Network:
    form = {"input_shape": (1, 9, 9), **form} if "resnet" in name else form
    return build(name, device=Device(dtype="float64"), width=WIDTHS[name], classes=CLASSES, seed=seed, **form)


def to_train(net: Network, batch: int, rng: np.random.Generator) -> tuple[Graph, dict[str, np.ndarray]]:
    """Return a network's graph in training mode, and its feeds."""
    feeds = {"x": rng.standard_normal((batch, *net.input_shape)), "t": rng.integers(0, net.classes, batch)}
    return net.wire(batch, train=True), feeds
