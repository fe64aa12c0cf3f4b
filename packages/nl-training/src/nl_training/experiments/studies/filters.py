"""The first convolution's filters before and after training, and their responses to a digit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nl_layers import Convolution, Relu
from nl_nodes import UserError
from nl_training.config import build
from nl_training.experiments.result import Figures, images
from nl_training.experiments.train import train

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from nl_training.config.schema import Config


def run(config: Config, cfg: DictConfig) -> Figures:
    """Plot the filters before and after training, and their responses to the first test image."""
    data = build.dataset(config)
    # The same seed gives the same initial weights as those of the trained network.
    before = build.network(config, data, build.device(config)).state_dict()["W1"]
    if before.ndim != 4:
        raise UserError(
            "experiment=filters shows the filters of a first convolution: choose a model that begins with one"
        )
    trained = train("training", config, cfg, data=data)
    state = trained.net.state_dict()
    after = state["W1"]
    digit = data.test.x[:1]
    responses = Relu().forward(Convolution(after, state.get("b1")).forward(digit))[0]
    names = [str(n) for n in range(1, len(after) + 1)]
    chosen = np.argsort(-responses.max(axis=(1, 2)))[:15]
    shown = [digit[0, 0], *responses[chosen]]
    numbers = {
        "roughness before": float(np.mean([roughness(f) for f in before[:, 0]])),
        "roughness after": float(np.mean([roughness(f) for f in after[:, 0]])),
        "test accuracy": trained.metric("test/acc")[-1],
    }
    captions = ["image", *(f"filter {n + 1}" for n in chosen)]
    figures = {
        "filters_1_before": images(list(before[:, 0]), names, 10, "filters of the first convolution before training"),
        "filters_2_after": images(list(after[:, 0]), names, 10, "after training"),
        "filters_3_responses": images(shown, captions, 8, "the strongest responses, after ReLU"),
    }
    return Figures(figures, numbers, (trained,))


def roughness(image: Any) -> float:
    """Return the mean square of neighbour differences over the variance: 2 for noise, near 0 for smooth images."""
    image = image - image.mean()
    steps = np.concatenate([np.diff(image, axis=0).ravel(), np.diff(image, axis=1).ravel()])
    return float(np.mean(steps**2) / np.mean(image**2))
