"""Gradients of backward against numerical ones, element by element."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nl_nodes.verify import Residual, central, check_graph, complex_step
from nl_training.config import build
from nl_training.config.experiments import OfImagesConfig
from nl_training.experiments.result import PALETTE, Figures, dress, panels

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from nl_training.config.schema import Config

METHODS = {"central differences": central, "complex step": complex_step}


def run(config: Config, cfg: DictConfig) -> Figures:
    """Check every element of every parameter on a few images with both methods."""
    o = config.experiment
    assert isinstance(o, OfImagesConfig)
    results = residuals(config)
    numbers = {"images": float(o.images), "tensors": float(len(results["complex step"]))}
    for method, checked in results.items():
        numbers[f"worst residual, {method}"] = max(r.value for r in checked)
    numbers["smallest gradient size"] = min(r.size for r in results["complex step"])
    figure, (axis,) = panels(1, 1, width=6.4, height=3.6)
    for color, marker, (method, checked) in zip(PALETTE[1::-1], "so", results.items(), strict=True):
        values = [max(r.value, 1e-18) for r in checked]
        axis.plot([r.name for r in checked], values, marker, color=color, label=f"against {method}")
    axis.axhline(1e-10, color=PALETTE[3], linestyle="--", label="limit for the complex step")
    axis.set(yscale="log", ylim=(1e-18, 1e-3))
    dress(axis, "parameter", "largest error / largest gradient", f"{config.model.name}, {o.images} images, float64")
    return Figures({o.name: figure}, numbers)


def residuals(config: Config) -> dict[str, list[Residual]]:
    """Return the residuals of all parameters by method, for the config's network with initial weights."""
    o = config.experiment
    assert isinstance(o, OfImagesConfig)
    data = build.dataset(config)
    net = build.network(config, data, build.device(config))
    chosen = np.random.default_rng(config.seed).permutation(len(data.train))[: o.images]
    feeds = {"x": data.train.x[chosen].astype(float), "t": data.train.t[chosen]}
    graph = net.wire(o.images, train=True)
    return {method: check_graph(graph, feeds, np.float64(1.0), numeric) for method, numeric in METHODS.items()}
