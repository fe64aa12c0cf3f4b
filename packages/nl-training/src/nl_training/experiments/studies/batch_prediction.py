"""Predictions of a trained network: one image at a time, and in batches."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from nl_training.config.experiments import OfImagesConfig
from nl_training.experiments.result import Figures
from nl_training.experiments.train import train
from nl_training.viz import plots

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from nl_training.config.schema import Config


def run(config: Config, cfg: DictConfig) -> Figures:
    """Train, predict the test set both ways, and plot the confusion matrix."""
    o = config.experiment
    assert isinstance(o, OfImagesConfig)
    trained = train("training", config, cfg)
    net, test = trained.net, trained.data.test
    begun = perf_counter()
    batched = net.device.host(net.predict(test.x))
    middle = perf_counter()
    single = np.concatenate([net.device.host(net.predict(test.x[i : i + 1])) for i in range(min(o.images, len(test)))])
    ended = perf_counter()
    guess = batched.argmax(axis=1)
    differs = single.argmax(axis=1) != guess[: len(single)]
    numbers = {
        "test accuracy": float(np.mean(guess == test.t)),
        "images that single and batch put in other classes": float(np.sum(differs)),
        "largest difference of a logit": float(np.abs(single - batched[: len(single)]).max()),
        "microseconds an image, in batches": 1e6 * (middle - begun) / len(test),
        "microseconds an image, alone": 1e6 * (ended - middle) / len(single),
    }
    figure = plots.confusion_matrix(test.t, guess, trained.data.classes)
    return Figures({"batch_prediction": figure}, numbers, (trained,))
