"""A training within an experiment, whose curves are recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING, Any

from nl_nodes import UserError
from nl_training.config import build
from nl_training.config.resolve import named
from nl_training.config.variants import variant
from nl_training.data import Dataset, EpochBatches, Split, batches, epoch_order
from nl_training.data.splits import stratified
from nl_training.training.callbacks import Callback, EpochReport, Result, StepReport, TrainingState
from nl_training.verification import Outcome, verify

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from nl_layers import Loss
    from nl_models import Network
    from nl_training.config.schema import Config


@dataclass(frozen=True)
class TrainedNetwork:
    """A finished training.

    Attributes:
        label: its name within the experiment.
        net: the network with its last weights.
        data: the data set.
        losses: the loss of each step.
        train_accuracy: accuracy on the whole training part in inference mode, after each epoch.
        result: the trainer's result.
        outcome: the outcome of the gradients' verification.
        config: its config, nested.
    """

    label: str
    net: Network
    data: Dataset
    losses: tuple[float, ...]
    train_accuracy: tuple[float, ...]
    result: Result
    outcome: Outcome
    config: Mapping[str, Any]

    @property
    def epochs(self) -> list[int]:
        """The numbers of the epochs."""
        return [report.epoch for report in self.result.history]

    @property
    def steps(self) -> list[int]:
        """The step after each epoch."""
        return [report.step for report in self.result.history]

    def metric(self, name: str) -> list[float]:
        """Return a metric such as `test/acc` after each epoch."""
        return [report.metrics[name] for report in self.result.history]


class _Curves(Callback):
    """Records the loss of each step and, optionally, the accuracy on the training part after each epoch."""

    reads_network = False

    def __init__(self, train_accuracy: bool) -> None:
        self.losses: list[float] = []
        self.accuracies: list[float] = []
        self._train_accuracy = train_accuracy
        self._trainer: TrainingState | None = None

    def on_start(self, trainer: TrainingState) -> None:
        self._trainer = trainer

    def on_step(self, report: StepReport) -> None:
        self.losses.append(report.loss)

    def on_epoch(self, report: EpochReport) -> None:
        if self._train_accuracy and self._trainer is not None:
            part = self._trainer.data.train
            self.accuracies.append(self._trainer.net.accuracy(part.x, part.t))


def train(
    label: str,
    config: Config,
    cfg: DictConfig,
    data: Dataset | None = None,
    prepare: Callable[[Network], None] | None = None,
    train_accuracy: bool = False,
) -> TrainedNetwork:
    """Train the network of a config and print the result.

    Args:
        label: its name within the experiment.
        config: the checked config.
        cfg: the same config as Hydra composed it.
        data: the data set, instead of the config's.
        prepare: changes the network first. It is not verified then: the verified twin would lack the change.
        train_accuracy: whether to evaluate the training part after each epoch.
    """
    data = data or build.dataset(config)
    net = build.network(config, data, build.device(config))
    if prepare is not None:
        prepare(net)
    epoch = EpochBatches.of(net, len(data.train), config.trainer.batch_size, config.trainer.accumulate)
    if epoch.note:
        print(f"{label}: {epoch.note}")
    mode = "off" if prepare else config.verify.mode
    outcome = verify(net, mode, config.verify.max_seconds, training=build.training(config, cfg, data, epoch))
    curves = _Curves(train_accuracy)
    result = build.trainer(config, cfg, net, data, [curves]).run()
    certificate = f", gradients {outcome.status}" if outcome.certificate else ""
    accuracy, took = result.history[-1].metrics["test/acc"], f"{result.steps:,} steps, {result.seconds:.1f} s"
    print(f"{label}: test accuracy {accuracy:.4f} after {took}{certificate}", flush=True)
    losses, accuracies = tuple(curves.losses), tuple(curves.accuracies)
    return TrainedNetwork(label, net, data, losses, accuracies, result, outcome, named(config, cfg))


def verified_network(config: Config, data: Dataset, loss: Loss | None = None) -> Network:
    """Return the network of a config, its gradients verified, for a study that takes steps without a trainer.

    Args:
        config: the checked config.
        data: the data set that the network is for.
        loss: its loss; None for its own.

    Raises:
        UserError: for an option of the training loop, which such a study would ignore.
    """
    _refuse_options_of_trainer(config, label_smoothing=loss is not None)
    net = build.network(config, data, build.device(config))
    net.loss_layer = loss or net.loss_layer
    verify(net, config.verify.mode, config.verify.max_seconds)
    return net


def _refuse_options_of_trainer(config: Config, label_smoothing: bool) -> None:
    """Refuse options that change steps by a trainer, and label smoothing where a study has its own loss."""
    r = config.regularization
    given = {f"regularization.{key}": getattr(r, key) for key in ("augment", "mixup", "clip_norm", "ema")}
    # The optimizers with their own weight decay apply it in any study.
    given["regularization.weight_decay"] = r.weight_decay and not hasattr(config.optimizer, "weight_decay")
    given["regularization.label_smoothing"] = label_smoothing and r.label_smoothing
    given["trainer.accumulate"] = config.trainer.accumulate > 1
    for key in (key for key, value in given.items() if value):
        raise UserError(f"{key} is of trainings by a trainer, but this study takes its own steps: leave it out")


def training_batches(data: Dataset, config: Config) -> Iterator[tuple[Any, Any]]:
    """Yield shuffled training batches (x, t), epoch after epoch, for a study that takes steps without a trainer."""
    for epoch in count(1):
        yield from batches(data.train, config.trainer.batch_size, epoch_order(len(data.train), config.seed, epoch))


def train_variants(
    variants: Mapping[str, Mapping[str, Any]], cfg: DictConfig, **options: Any
) -> tuple[TrainedNetwork, ...]:
    """Train each variant of a config, after checking all of them; `options` are those of `train`."""
    checked = {label: variant(cfg, changes) for label, changes in variants.items()}
    return tuple(train(label, *pair, **options) for label, pair in checked.items())


def subset(data: Dataset, images: int, seed: int = 0) -> Dataset:
    """Return the data set with `images` training images, stratified by class."""
    if images >= len(data.train):
        return data
    _, taken = stratified(data.train.t, images / len(data.train), seed)
    return replace(data, train=Split(data.train.x[taken], data.train.t[taken]))
