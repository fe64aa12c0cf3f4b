"""The loss around trained weights, along two random directions that are normalised filter by filter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import LogNorm

from nl_training.config import build
from nl_training.config.experiments import LossSurfaceConfig
from nl_training.experiments.result import LINES, Figures, dress, panels
from nl_training.experiments.train import subset, train_variants

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.figure import Figure
    from omegaconf import DictConfig

    from nl_models import Network
    from nl_training.config.schema import Config
    from nl_training.data import Split

LEVELS = np.geomspace(0.01, 100, 17)  # of the contours


@dataclass(frozen=True)
class Surface:
    """The loss on a square grid around trained weights.

    Attributes:
        places: (P,), the steps along each direction, 0 in the middle.
        losses: (P, P), row by step along the second direction.
    """

    places: Any
    losses: Any

    @property
    def slice(self) -> Any:
        """The losses (P,) along the first direction."""
        return self.losses[len(self.places) // 2]

    @property
    def share_not_convex(self) -> float:
        """The share of inner points at which the surface clearly bends down in some direction.

        There the Hessian of the surface, by differences, has an eigenvalue below minus a tenth of the other's size.
        """
        z = self.losses
        middle = z[1:-1, 1:-1]
        xx = z[1:-1, 2:] - 2 * middle + z[1:-1, :-2]
        yy = z[2:, 1:-1] - 2 * middle + z[:-2, 1:-1]
        xy = (z[2:, 2:] - z[2:, :-2] - z[:-2, 2:] + z[:-2, :-2]) / 4
        mean, spread = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
        return float(np.mean(mean - spread < -0.1 * np.abs(mean + spread)))


def run(config: Config, cfg: DictConfig) -> Figures:
    """Train each variant, and plot the surface and a slice around its weights."""
    o = config.experiment
    assert isinstance(o, LossSurfaceConfig)
    data = build.dataset(config)
    trained = train_variants(o.variants, cfg, data=data)
    images = subset(data, o.images, config.seed).train
    surfaces = {run.label: surface(run.net, images, o, config.seed) for run in trained}
    numbers: dict[str, float] = {}
    for run in trained:
        found = surfaces[run.label]
        numbers |= {
            f"{run.label}: loss in the middle": float(found.slice[len(found.places) // 2]),
            f"{run.label}: share of points with a loss below 1": float(np.mean(found.losses < 1)),
            f"{run.label}: share of points that are not convex": found.share_not_convex,
            f"{run.label}: test accuracy": run.metric("test/acc")[-1],
        }
    return Figures({"loss_surface": _draw(surfaces)}, numbers, trained)


def surface(net: Network, images: Split, o: LossSurfaceConfig, seed: int) -> Surface:
    """Return the loss in inference mode at weights + a d1 + b d2, for random directions d1 and d2."""
    rng, middle = np.random.default_rng(seed), net.device.host(net.params.flat).copy()
    weights = {name: net.device.host(array) for name, array in net.params.items()}
    x, y = direction(weights, rng), direction(weights, rng)
    places = np.linspace(-o.radius, o.radius, 2 * o.steps + 1)
    losses = []
    for b in places:
        for a in places:
            net.params.flat[...] = net.device.array(middle + a * x + b * y)
            losses.append(net.loss(images.x, images.t))
    net.params.flat[...] = net.device.array(middle)
    return Surface(places, np.reshape(losses, (len(places), -1)))


def direction(params: Mapping[str, Any], rng: np.random.Generator) -> Any:
    """Return a normal direction (size,), scaled so that each filter has the norm of the network's.

    A filter is the weights of one output channel, or of one output of an affine layer; biases and batch norm's
    parameters stay as they are.
    """
    return np.concatenate([_like(weights, rng).ravel() for weights in params.values()])


def _like(weights: Any, rng: np.random.Generator) -> Any:
    if weights.ndim == 1:
        return np.zeros_like(weights)
    inputs = tuple(range(1, weights.ndim)) if weights.ndim > 2 else 0  # (F, C, H, W), or affine (inputs, outputs)
    normal = rng.standard_normal(weights.shape)
    old, new = (np.sqrt(np.sum(w * w, axis=inputs, keepdims=True)) for w in (weights, normal))
    return normal * old / new


def _draw(surfaces: Mapping[str, Surface]) -> Figure:
    figure, axes = panels(1, len(surfaces) + 1, width=3.7, height=3.4)
    for axis, look, (label, found) in zip(axes, LINES, surfaces.items(), strict=False):
        places, clipped = found.places, np.clip(found.losses, LEVELS[0], LEVELS[-1])
        drawn = axis.contourf(places, places, clipped, LEVELS, norm=LogNorm(), cmap="viridis")
        axis.contour(places, places, clipped, LEVELS, norm=LogNorm(), colors="white", linewidths=0.4)
        axis.plot(0, 0, "+", color="red")
        dress(axis, "first direction", "second direction", f"{label}: loss")
        axes[-1].plot(places, found.slice, label=label, **{**look, "markevery": 1})
    figure.colorbar(drawn, ax=axes[-2], ticks=[0.01, 0.1, 1, 10, 100])
    axes[-1].set(yscale="log", ylim=(LEVELS[0] / 10, LEVELS[-1]))
    dress(axes[-1], "first direction", "loss", "along the first direction")
    return figure
