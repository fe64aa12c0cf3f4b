"""Time of verifying VGG16 at full width, tensor by tensor: `python scripts/bench_verification.py`."""

import argparse
import sys
from time import perf_counter
from typing import Any

import numpy as np

from nl_models import vgg16
from nl_nodes import Device
from nl_nodes.verify import Residual, sample_check

FORMS: dict[str, tuple[int, dict[str, Any]]] = {
    "plain": (2, {}),
    "batch norm, dropout": (8, {"batch_norm": "before_activation", "dropout": 0.5}),
}
LIMIT = 1e-11


def verify(batch: int, form: dict[str, Any], width: int, seed: int) -> tuple[list[Residual], int, float]:
    """Return residuals along a +-1 and a Gaussian direction per tensor, the number of parameters, and the seconds."""
    net = vgg16(width=width, seed=seed, device=Device(dtype="float64"), **form)
    rng = np.random.default_rng(seed)
    feeds = {"x": rng.standard_normal((batch, *net.input_shape)), "t": rng.integers(0, net.classes, batch)}
    start = perf_counter()
    residuals = sample_check(net.wire(batch, train=True), feeds, np.float64(1.7), rng, draws=2)
    return residuals, net.params.flat.size, perf_counter() - start


def main() -> bool:
    """Print a line per form; return whether all residuals are within the limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--form", choices=FORMS, action="append", help="default: all")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    holds = True
    for name in given.form or FORMS:
        batch, form = FORMS[name]
        residuals, parameters, seconds = verify(batch, form, given.width, given.seed)
        worst = max(residuals, key=lambda r: r.value)
        zeros = [r.name for r in residuals if not r.size]
        print(
            f"{name} (batch {batch}): {len(residuals)} tensors, {parameters:,} parameters, {2 * len(residuals)} "
            f"directions, worst residual {worst.value:.1e} ({worst.name}, limit {LIMIT:g}), "
            f"structural zeros {', '.join(zeros) or 'none'}, {seconds:.1f} s",
            flush=True,
        )
        holds &= not zeros and all(r.value <= LIMIT for r in residuals)
    return holds


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
