"""Batch norm at many scales of the initial weights, with three gradients of the softmax loss.

The textbook uses `y - t` as the gradient of `log(y + 1e-7)`. The exact gradient of that value is smaller by the factor
`p / (p + 1e-7)`, where p is the label's probability: it vanishes where the network is confidently wrong. The gradient
of log-softmax is exact and does not vanish.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nl_layers import Softmax, SoftmaxWithLoss
from nl_layers.losses import GRADIENTS
from nl_training.config import build
from nl_training.config.experiments import BatchNormGridConfig
from nl_training.config.variants import variant
from nl_training.experiments.result import PALETTE, Figures, dress, panels
from nl_training.experiments.train import TrainedNetwork, subset, train

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure
    from omegaconf import DictConfig

    from nl_models import Network
    from nl_training.config.schema import Config
    from nl_training.data import Dataset

# Stable and textbook coincide unless values overflow: the wide line stays visible behind the thin one.
LOOKS: dict[str, dict[str, Any]] = {
    gradient: {"color": color, "marker": marker, "lw": width, "markersize": 4}
    for gradient, color, marker, width in zip(GRADIENTS, PALETTE[2::-1], ("", "s", "^"), (3.5, 1.2, 1.2), strict=True)
}
NORMS = {True: ("with", "-"), False: ("without", "--")}
Grid = dict[tuple[bool, str], list[TrainedNetwork]]


def run(config: Config, cfg: DictConfig) -> Figures:
    """Train every combination, and compare the gradients before the first step."""
    o = config.experiment
    assert isinstance(o, BatchNormGridConfig)
    data = subset(build.dataset(config), o.images, config.seed)
    start = [at_start(cfg, data, scale) for scale in o.scales]
    grid: Grid = {(norm, gradient): [] for norm in NORMS for gradient in GRADIENTS}
    # At the largest scales values overflow, as in the source; the trainer skips such steps.
    with np.errstate(over="ignore", invalid="ignore"):
        for scale in o.scales:
            for (norm, gradient), runs in grid.items():
                pair = variant(cfg, {"model.init": scale, "regularization.batch_norm": norm})
                label = f"std {scale:.3g} {NORMS[norm][0]} batch norm, {gradient}"
                runs.append(train(label, *pair, data=data, prepare=with_gradient(gradient), train_accuracy=True))
    numbers: dict[str, float] = {}
    for place, scale in enumerate(o.scales):
        numbers |= {f"std {scale:.3g}: {name}": value for name, value in start[place].items()}
        for (norm, gradient), runs in grid.items():
            name = f"std {scale:.3g}: accuracy {NORMS[norm][0]}, {gradient}"
            numbers[name] = runs[place].train_accuracy[-1]
    return Figures(
        {
            "batch_norm_1_start": _start(o.scales, start),
            "batch_norm_2_final": _final(o.scales, grid),
            "batch_norm_3_grid": _grid(o.scales, grid),
        },
        numbers,
    )


def with_gradient(gradient: str) -> Callable[[Network], None]:
    """Return a function that sets a network's loss to one with this gradient."""

    def prepare(net: Network) -> None:
        net.loss_layer = SoftmaxWithLoss(gradient)

    return prepare


def at_start(cfg: DictConfig, data: Dataset, scale: float) -> dict[str, float]:
    """Compare gradients at initial weights of a scale, with and without batch norm.

    Returns:
        For each: the norm of the exact gradient over the textbook's, and the share of images whose label has a
        probability below 1e-7.
    """
    result = {}
    for norm, (name, _) in NORMS.items():
        config, _ = variant(cfg, {"model.init": scale, "regularization.batch_norm": norm, "device.dtype": "float64"})
        net = build.network(config, data, build.device(config))
        last = [name for name in net.params if name.startswith("W")][-1]
        norms = {}
        for gradient in ("exact", "textbook"):
            net.loss_layer = SoftmaxWithLoss(gradient)
            feeds = {"x": np.asarray(data.train.x, dtype=float), "t": data.train.t}
            done = net.wire(len(data.train), train=True).run(**feeds)
            norms[gradient] = float(np.linalg.norm(done.backward(np.ones(()))[last]))
        result[f"exact over textbook {name}"] = norms["exact"] / norms["textbook"]
        p = Softmax().forward(done.results[1])[np.arange(len(data.train)), data.train.t]
        result[f"share below 1e-7 {name}"] = float(np.mean(p < 1e-7))
    return result


def _start(scales: tuple[float, ...], start: list[dict[str, float]]) -> Figure:
    figure, (left, right) = panels(1, 2)
    for (name, style), color in zip(NORMS.values(), PALETTE, strict=False):
        for axis, key in ((left, "exact over textbook"), (right, "share below 1e-7")):
            values = [s[f"{key} {name}"] for s in start]
            axis.plot(scales, values, "o", ls=style, color=color, label=f"{name} batch norm")
    for axis, label in ((left, "|exact| / |textbook|, last layer"), (right, "images with p(label) < 1e-7")):
        axis.set(xscale="log", ylim=(-0.03, 1.1))
        dress(axis, "std of the initial weights", label)
    figure.suptitle("the gradients before the first step", fontsize=10)
    return figure


def _final(scales: tuple[float, ...], grid: Grid) -> Figure:
    figure, axes = panels(1, 2, sharey=True)
    for axis, (norm, (name, style)) in zip(axes, NORMS.items(), strict=True):
        for gradient, look in LOOKS.items():
            last = [run.train_accuracy[-1] for run in grid[norm, gradient]]
            axis.plot(scales, last, ls=style, label=gradient, **look)
        axis.set(xscale="log", ylim=(0, 1.03))
        dress(axis, "std of the initial weights", "training accuracy at the end", f"{name} batch norm")
    return figure


def _grid(scales: tuple[float, ...], grid: Grid) -> Figure:
    columns = min(4, len(scales))
    figure, axes = panels(-(-len(scales) // columns), columns, width=2.3, height=1.8, sharex=True, sharey=True)
    for place, (axis, scale) in enumerate(zip(axes, scales, strict=False)):
        for (norm, gradient), runs in grid.items():
            label = f"{gradient}, {NORMS[norm][0]} batch norm"
            accuracies: Any = runs[place].train_accuracy
            epochs = range(1, len(accuracies) + 1)
            axis.plot(epochs, accuracies, ls=NORMS[norm][1], label=label, markevery=5, **LOOKS[gradient])
        dress(axis, "", "", f"std {scale:.2g}", legend=False)
    axes[0].set_ylim(0, 1.03)
    figure.supxlabel("epoch", fontsize=10)
    figure.supylabel("training accuracy", fontsize=10)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncol=min(3, columns), fontsize=8)
    return figure
