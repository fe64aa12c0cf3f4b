"""Cost of products with the Hessian, and time of its largest eigenvalue: `python scripts/bench_curvature.py`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from time import perf_counter, process_time
from typing import Any

import numpy as np

from nl_layers.optimizers import Adam
from nl_models import Curvature, Network, build
from nl_nodes import Device
from nl_training.data import load

IMAGES, BATCH, STEPS, REPEATS = 1000, 100, 100, 3
FORMS: dict[str, dict[str, Any]] = {"mlp": {}, "cnn3": {}, "cnn8": {"batch_norm": True}}


def shortest(call: Callable[[], Any]) -> float:
    """Return the shortest of a few processor times of a call, in seconds."""
    times = []
    for _ in range(REPEATS):
        start = process_time()
        call()
        times.append(process_time() - start)
    return min(times)


def trained(name: str, x: Any, t: Any) -> Network:
    """Return a model after some steps of training."""
    net, optimizer = build(name, device=Device(), **FORMS[name]), Adam()
    for step in range(STEPS):
        part = slice(step * BATCH % IMAGES, step * BATCH % IMAGES + BATCH)
        optimizer.update(net.params, net.step(x[part], t[part]).grads)
    return net


def times(net: Network, x: Any, t: Any) -> list[float]:
    """Return the seconds of a gradient node by node, a Hessian product and a Gauss-Newton product, on one core."""
    reference = net.on(Device(dtype="float64", compile=False, threads=1))
    hessian, gauss_newton = Curvature(reference, x, t), Curvature(reference, x, t, gauss_newton=True)
    v = np.random.default_rng(0).standard_normal(hessian.size)
    calls = [lambda: reference.step(x, t), lambda: hessian.product(v), lambda: gauss_newton.product(v)]
    return [shortest(call) for call in calls]


def main() -> None:
    """Print a line for each model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="mnist5k")
    parser.add_argument("--root", help="folder of the data, if it is not to be downloaded")
    parser.add_argument("--model", choices=FORMS, action="append", help="default: all")
    given = parser.parse_args()
    split = load(given.data, root=given.root).train
    x, t = split.x[:IMAGES], split.t[:IMAGES]
    print(f"gradient and products: {BATCH} images on one core; largest eigenvalue: {IMAGES:,} images on all cores")
    print("model       size  gradient   Hessian product  Gauss-Newton product  largest eigenvalue")
    for name in given.model or FORMS:
        net = trained(name, x, t)
        gradient, hessian, gauss_newton = times(net, x[:BATCH], t[:BATCH])
        start = perf_counter()
        curvature = Curvature(net, x, t)
        (largest,) = curvature.eigenvalues()
        seconds = perf_counter() - start
        print(
            f"{name:5} {curvature.size:10,}  {gradient:6.3f} s  {hessian:6.3f} s, {hessian / gradient:4.1f} x  "
            f"{gauss_newton:11.3f} s, {gauss_newton / gradient:4.1f} x  {largest:8.4g}, {seconds:3.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
