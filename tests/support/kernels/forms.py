"""The forms in which every model runs through kernels, at small width."""

from __future__ import annotations

from typing import Any

from nl_models import Network, build
from nl_nodes import Device

ERROR = 1e-12
"""The largest distance of kernels in double precision from exact values, in parts of an array's norm."""

WIDTHS = {"mlp": 30, "cnn3": 12, "cnn8": 12, "vgg11": 4, "vgg16": 4}
FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "batch norm": {"batch_norm": True},
    "dropout": {"dropout": 0.3},
    "both, tanh": {"batch_norm": "after_activation", "dropout": 0.3, "activation": "tanh"},
    "both, sigmoid": {"batch_norm": "before_affine", "dropout": 0.3, "activation": "sigmoid"},
    "odd sizes": {"input_shape": (3, 35, 33)},
}


def model(name: str, form: str) -> Network:
    """Return a narrow model in double precision."""
    return build(name, device=Device(dtype="float64", threads=1), width=WIDTHS[name], **FORMS[form])
