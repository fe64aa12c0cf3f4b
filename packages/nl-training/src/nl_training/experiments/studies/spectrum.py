"""The spectrum of the Hessian before and after training: a bulk near 0, and about as many outliers as classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nl_models import Curvature
from nl_training.config import build
from nl_training.config.experiments import SpectrumConfig
from nl_training.experiments.result import LINES, Figures, dress, panels
from nl_training.experiments.train import subset, train

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from omegaconf import DictConfig

    from nl_models import Network
    from nl_nodes.curvature import Density
    from nl_training.config.schema import Config
    from nl_training.data import Split


@dataclass(frozen=True)
class Spectrum:
    """The density of all eigenvalues, and the largest ones, the largest first."""

    density: Density
    largest: Any

    @property
    def above_gap(self) -> int:
        """The number of eigenvalues above the widest gap, measured by the ratio of the two around it."""
        return int(np.argmax(self.largest[:-1] / self.largest[1:])) + 1


def run(config: Config, cfg: DictConfig) -> Figures:
    """Compute the spectrum at the initial and at the trained weights."""
    o = config.experiment
    assert isinstance(o, SpectrumConfig)
    data = subset(build.dataset(config), o.images, config.seed)
    # The same seed gives the same initial weights as those of the trained network.
    before = build.network(config, data, build.device(config))
    trained = train("training", config, cfg, data=data)
    spectra = {
        f"{when} training": spectrum(net, data.train, o, config.seed)
        for when, net in (("before", before), ("after", trained.net))
    }
    numbers: dict[str, float] = {}
    for when, found in spectra.items():
        near = np.abs(found.density.nodes) < 0.1 * found.largest[0]
        numbers |= {
            f"{when}: largest eigenvalue": float(found.largest[0]),
            f"{when}: share below a tenth of it": float(found.density.weights[near].sum()),
            f"{when}: eigenvalues above the widest gap": found.above_gap,
            f"{when}: smallest eigenvalue": float(found.density.nodes.min()),
        }
    numbers["test accuracy"] = trained.metric("test/acc")[-1]
    return Figures({"spectrum": _draw(spectra)}, numbers, (trained,))


def spectrum(net: Network, images: Split, o: SpectrumConfig, seed: int) -> Spectrum:
    """Return the Hessian's spectrum on these images."""
    hessian = Curvature(net, images.x, images.t)
    largest = hessian.eigenvalues(o.eigenvalues, tolerance=0.01, seed=seed)
    return Spectrum(hessian.density(o.steps, o.probes, seed), largest[::-1])


def _draw(spectra: dict[str, Spectrum]) -> Figure:
    figure, (left, right) = panels(1, 2, width=5.0, height=3.6)
    for look, (when, found) in zip(LINES, spectra.items(), strict=False):
        scale = found.largest[0]  # so that the spectra have the same width
        points = np.linspace(found.density.nodes.min() / scale - 0.05, 1.05, 500)
        density = found.density.at(points * scale, 0.01 * scale) * scale
        left.plot(points, density, label=when, **{**look, "marker": ""})
        ranks = range(1, len(found.largest) + 1)
        right.plot(ranks, found.largest / scale, label=f"{when} (largest {scale:.3g})", **{**look, "markevery": 1})
        right.axvline(found.above_gap + 0.5, color=look["color"], linestyle=":")
    right.plot([], [], color="gray", linestyle=":", label="widest gap")
    left.set(yscale="log", ylim=(1e-4, 100))
    right.set(yscale="log", xticks=[1, *range(5, len(found.largest) + 1, 5)])
    dress(left, "eigenvalue / the largest", "density")
    dress(right, "rank", "eigenvalue / the largest")
    return figure
