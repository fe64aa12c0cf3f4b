"""Histograms of the activations of normal inputs in several layers, by initializer and activation function."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nl_layers import Affine
from nl_layers.initializers import normal
from nl_models.builder import ACTIVATIONS
from nl_training.config.experiments import ActivationsConfig
from nl_training.experiments.result import PALETTE, Figures, dress, panels

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from nl_training.config.schema import Config

# ReLU's positive activations span twelve orders of magnitude, and its zeros would hide them.
BINS = {"sigmoid": np.linspace(0, 1, 31), "tanh": np.linspace(-1, 1, 31), "relu": np.logspace(-7, 5, 49)}


def activations(o: ActivationsConfig, function: str, init: str | float, seed: int) -> list[Any]:
    """Return the activations (samples, width) of each layer."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((o.samples, o.width))
    result = []
    for _ in range(o.layers):
        affine = Affine(normal(rng, (o.width, o.width), o.width, init))
        x = ACTIVATIONS[function]().forward(affine.forward(x))
        result.append(x)
    return result


def run(config: Config, cfg: DictConfig) -> Figures:
    """Plot a figure per function, with a row per initializer and a column per layer."""
    o = config.experiment
    assert isinstance(o, ActivationsConfig)
    figures, numbers = {}, {}
    for function in o.functions:
        figure, axes = panels(len(o.inits), o.layers, width=1.7, height=1.5, sharex=True)
        figure.suptitle(f"{function}: activations of {o.layers} layers")
        for row, init in enumerate(o.inits):
            name = init if isinstance(init, str) else f"std {init:g}"
            layers = activations(o, function, init, config.seed)
            for column, values in enumerate(layers):
                axis = axes[row * o.layers + column]
                axis.hist(values.ravel(), BINS[function], histtype="stepfilled", color=PALETTE[row])
                last = row == len(o.inits) - 1
                dress(axis, f"layer {column + 1}" if last else "", "" if column else name)
                zeros = f", {np.mean(values == 0):.0%} zero" if function == "relu" else ""
                axis.set_title(f"std {values.std():.2g}{zeros}", fontsize=7)
                axis.tick_params(labelsize=6, labelleft=False)
            numbers[f"{function}, {name}: std of the last layer"] = float(layers[-1].std())
        if function == "relu":
            axes[0].set_xscale("log")
        figures[f"activation_histograms_{function}"] = figure
    return Figures(figures, numbers)
