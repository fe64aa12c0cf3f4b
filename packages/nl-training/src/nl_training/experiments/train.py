"""One training of an experiment: the same trainer as every run's, its curves kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nl_training.commands.train import trainer, training
from nl_training.config import build
from nl_training.config.variants import variant
from nl_training.data import Dataset, EpochBatches, Split
from nl_training.data.splits import stratified
from nl_training.training.callbacks import Callback, EpochReport, Result, StepReport
from nl_training.verification import Outcome, verify

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from nl_models import Network
    from nl_training.config.schema import Config
    from nl_training.training.trainer import Trainer


@dataclass(frozen=True)
class Trained:
    """A finished training.

    Attributes:
        label: what tells it from the experiment's others.
        net: with its last weights.
        data: what it was trained on.
        losses: of each step.
        train_accuracy: after each epoch, on the whole training part in inference mode.
        result: the trainer's.
        outcome: what became of the verification of its gradients.
    """

    label: str
    net: Network
    data: Dataset
    losses: tuple[float, ...]
    train_accuracy: tuple[float, ...]
    result: Result
    outcome: Outcome

    @property
    def epochs(self) -> list[int]:
        """The numbers of the epochs."""
        return [report.epoch for report in self.result.history]

    @property
    def steps(self) -> list[int]:
        """The step after each epoch."""
        return [report.step for report in self.result.history]

    def metric(self, name: str) -> list[float]:
        """A metric after each epoch, such as `test/acc`."""
        return [report.metrics[name] for report in self.result.history]


class _Curves(Callback):
    """Keeps the loss of each step and, if asked, the accuracy on the training part after each epoch."""

    def __init__(self, train_accuracy: bool) -> None:
        self.losses: list[float] = []
        self.accuracies: list[float] = []
        self._wanted = train_accuracy
        self._trainer: Trainer | None = None

    def on_start(self, trainer: Trainer) -> None:
        self._trainer = trainer

    def on_step(self, report: StepReport) -> None:
        self.losses.append(report.loss)

    def on_epoch(self, report: EpochReport) -> None:
        if self._wanted and self._trainer is not None:
            part = self._trainer.data.train
            self.accuracies.append(self._trainer.net.accuracy(part.x, part.t))


def train(
    label: str,
    config: Config,
    cfg: DictConfig,
    data: Dataset | None = None,
    prepare: Callable[[Network], None] | None = None,
    train_accuracy: bool = False,
) -> Trained:
    """Train what a config describes and tell how it went.

    Args:
        label: what tells it from the experiment's others.
        config: checked.
        cfg: Hydra's, of which optimizer and schedule are made.
        data: takes the place of the config's data set.
        prepare: changes the network first. It has no certificate then: the twin that is verified knows no change.
        train_accuracy: whether to evaluate the training part after each epoch.
    """
    data = data or build.dataset(config)
    net = build.network(config, data, build.device(config))
    if prepare is not None:
        prepare(net)
    epoch = EpochBatches.of(net, len(data.train), config.trainer.batch_size)
    if epoch.note:
        print(f"{label}: {epoch.note}")
    mode = "off" if prepare else config.verify.mode
    outcome = verify(net, mode, config.verify.max_seconds, training=training(config, cfg, data, epoch))
    curves = _Curves(train_accuracy)
    result = trainer(config, cfg, net, data, [curves]).run()
    certificate = f", gradients {outcome.status}" if outcome.certificate else ""
    print(
        f"{label}: test accuracy {result.history[-1].metrics['test/acc']:.4f} after {result.steps:,} steps, "
        f"{result.seconds:.1f} s{certificate}",
        flush=True,
    )
    return Trained(label, net, data, tuple(curves.losses), tuple(curves.accuracies), result, outcome)


def train_variants(variants: Mapping[str, Mapping[str, Any]], cfg: DictConfig, **options: Any) -> tuple[Trained, ...]:
    """Train each variant of a config, all checked before the first starts; `options` are those of `train`."""
    made = {label: variant(cfg, changes) for label, changes in variants.items()}
    return tuple(train(label, *pair, **options) for label, pair in made.items())


def few(data: Dataset, images: int, seed: int = 0) -> Dataset:
    """The data set with so many of its training images, an equal share of each class."""
    if images >= len(data.train):
        return data
    _, taken = stratified(data.train.t, images / len(data.train), seed)
    return replace(data, train=Split(data.train.x[taken], data.train.t[taken]))
