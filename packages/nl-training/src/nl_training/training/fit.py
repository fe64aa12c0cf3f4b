"""`fit`: train a network in one call, without a config and without logging a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nl_layers.optimizers import Adam, Optimizer
from nl_layers.schedules import Constant, Schedule
from nl_models import Network
from nl_nodes import UserError
from nl_nodes.arguments import COUNT, NATURAL, NOT_NEGATIVE, checked
from nl_training.data import Dataset
from nl_training.data.augment import augmentations
from nl_training.training.callbacks import Callback, Result
from nl_training.training.progress_bar import ProgressBar
from nl_training.training.regularization import Regularization
from nl_training.training.trainer import Trainer, TrainOptions


@checked
def fit(
    net: Network,
    data: Dataset,
    optimizer: Optimizer | None = None,
    epochs: int = 10,
    batch_size: int = 128,
    schedule: Schedule | None = None,
    weight_decay: float = 0.0,
    seed: int = 0,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
    augment: str | Sequence[str] | None = None,
    mixup: float = 0.0,
    clip_norm: float | None = None,
) -> Result:
    """Train a network on a data set and return the result with its history.

    The network ends with the best weights by validation accuracy, which the result's test metrics are of.

    Args:
        net: the network.
        data: training, validation and test splits, such as `load("mnist5k")` of `nl_training.data`.
        optimizer: None is `Adam()`.
        epochs: passes over the training data.
        batch_size: images per step.
        schedule: of the learning rate; None keeps it constant.
        weight_decay: coefficient of weight decay, added to the weights' gradients.
        seed: seed of the batch order.
        callbacks: called on steps, epochs and the end.
        progress: show a bar, or a line an epoch without a terminal.
        augment: "auto", or names of `nl_training.data.augment.AUGMENTATIONS`: random changes of the training images.
        mixup: alpha of mixup (`nl_training.data.mixup`), 0 for none.
        clip_norm: the largest norm of a step's gradient, None for no limit.

    Raises:
        UserError: for a wrong argument, and if the loss or a gradient is not finite (`Diverged`).
    """
    _check("net", net, Network, "mlp()")
    _check("data", data, Dataset, 'load("digits")')
    _check("optimizer", optimizer or Adam(), Optimizer, "Adam()")
    _check("schedule", schedule or Constant(), Schedule, "Cosine()")
    _check("callbacks", callbacks, Sequence, "[ProgressBar()]")
    for callback in callbacks:
        _check("one of callbacks", callback, Callback, "ProgressBar()")
    COUNT.check("fit", epochs=epochs, batch_size=batch_size)
    NOT_NEGATIVE.check("fit", weight_decay=weight_decay)
    NATURAL.check("fit", seed=seed)
    regularization = Regularization(augmentations(augment, data.input_shape[0]), mixup, clip_norm)
    bars = [ProgressBar()] if progress else []
    trainer = Trainer(
        net,
        optimizer or Adam(),
        schedule or Constant(),
        data,
        TrainOptions(epochs=epochs, batch_size=batch_size, regularization=regularization),
        weight_decay,
        seed,
        [*bars, *callbacks],
    )
    try:
        result = trainer.run()
    finally:
        for bar in bars:
            bar.close()
    net.load_state_dict(trainer.best_state)
    return result


def _check(name: str, value: Any, kind: type, example: str) -> None:
    """Refuse an argument of another kind, or a class in place of its instance."""
    if isinstance(value, type) or not isinstance(value, kind):
        raise UserError(f"fit: {name} is no {kind.__name__}, such as {example}: got {value!r:.40}")
