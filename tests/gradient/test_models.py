"""Gradients of every model, tensor by tensor, in narrow forms, along random directions."""

import numpy as np
import pytest
from support.small_models import WIDTHS, fits

from nl_models import build
from nl_nodes import Device
from nl_nodes.verify import sample_check

pytestmark = pytest.mark.gradient

FORMS = [
    {},
    {"batch_norm": "before_activation", "dropout": 0.3},
    {"batch_norm": "before_affine"},
    {"batch_norm": "after_activation", "activation": "tanh", "init": "xavier"},
    {"activation": "sigmoid", "init": "xavier"},
]

# Batch norm before the first convolution only scales the one channel of the image, and the next batch norm takes the
# scale out again: but for eps, the loss does not depend on gamma1.
SCALED_OUT = {(name, "before_affine"): "gamma1" for name in ("cnn8", "vgg11", "vgg16")}


CASES = [(name, form) for name in sorted(WIDTHS) for form in FORMS if fits(name, form)]


@pytest.mark.parametrize(
    ("name", "form"), CASES, ids=lambda part: part if isinstance(part, str) else "-".join(map(str, part.values()))
)
def test_model_gradient(name: str, form: dict) -> None:
    net = build(
        name, device=Device(dtype="float64"), width=WIDTHS[name], classes=4, seed=3, input_shape=(1, 28, 28), **form
    )
    rng = np.random.default_rng(5)
    batch = 8
    x, t = rng.standard_normal((batch, 1, 28, 28)), rng.integers(0, 4, batch)
    graph = net.wire(batch, train=True)
    residuals = sample_check(graph, {"x": x, "t": t}, np.float64(1.7), rng)
    assert {r.name for r in residuals} == set(net.params)
    declared = SCALED_OUT.get((name, form.get("batch_norm")))
    largest = max(r.size for r in residuals)
    for residual in residuals:
        assert residual.size > 0, residual
        if residual.name == declared:
            assert residual.size <= 1e-3 * largest
            assert abs(residual.analytic - residual.numeric) <= 1e-12 * largest, residual
        else:
            assert residual.value <= 1e-10, residual
