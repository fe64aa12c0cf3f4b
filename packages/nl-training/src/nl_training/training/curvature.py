"""The largest eigenvalue of the loss's Hessian, every few steps during training."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from nl_models import Curvature
from nl_nodes import UserError
from nl_training.training.callbacks import Callback, TrainingState

log = logging.getLogger(__name__)

IMAGES = 256
"""Number of training images on which the Hessian is taken; fewer if there are fewer."""

BATCH = 128
"""The most images in a pass, whose statistics batch norm takes."""


class Sharpness(Callback):
    """Report the largest eigenvalue of the Hessian every `every` steps, as the metric `curvature/largest`.

    It is that of the mean loss on `IMAGES` training images, drawn once, at the weights before the step, in training
    mode and without weight decay, to a relative 1e-3. It takes 20 products or more, each the time of a few gradients
    node by node. Neither weights, running statistics nor random state of the training change.

    Args:
        every: number of steps from one report to the next.
        seed: seed of the images and of the first vector.

    Source: Cohen et al., Gradient Descent on Neural Networks Typically Occurs at the Edge of Stability (2021).
    """

    def __init__(self, every: int, seed: int = 0) -> None:
        self.every, self.seed = every, seed

    def on_batch(self, trainer: TrainingState, step: int, x: Any, t: Any) -> None:
        """Report the eigenvalue if the step is a multiple of `every`."""
        if step % self.every:
            return
        train = trainer.data.train
        some = np.sort(np.random.default_rng(self.seed).permutation(len(train))[:IMAGES])
        try:
            (largest,) = Curvature(trainer.net, train.x[some], train.t[some], BATCH).eigenvalues(seed=self.seed)
        except UserError as why:
            log.warning("step %d: no curvature: %s", step, why)
            return
        for callback in trainer.callbacks:
            callback.on_metrics(step, {"curvature/largest": float(largest)})
