"""Builders of the objects that a config describes; nothing else calls Hydra's `instantiate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from math import inf
from typing import TYPE_CHECKING, Any

from hydra.utils import instantiate

if TYPE_CHECKING:
    from nl_layers.optimizers import Optimizer
    from nl_layers.schedules import Schedule
    from nl_models import Network
    from nl_nodes import Device
    from nl_training.config.schema import Config, DataConfig
    from nl_training.data import Dataset, EpochBatches
    from nl_training.training.callbacks import Callback
    from nl_training.training.checkpoint import Checkpoints
    from nl_training.training.regularization import Regularization
    from nl_training.training.trainer import Trainer
    from nl_training.verification import Training


def optimizer(cfg: Any) -> Optimizer:
    """Build the optimizer of a validated config."""
    built: Optimizer = instantiate(cfg.optimizer)
    return built


def schedule(cfg: Any) -> Schedule:
    """Build the learning rate schedule of a validated config."""
    built: Schedule = instantiate(cfg.schedule)
    return built


def device(config: Config) -> Device:
    """Build the device of a config; raise `DeviceError` if it is not available."""
    from nl_nodes import Device

    return Device(**asdict(config.device))


def dataset(config: Config) -> Dataset:
    """Load the data set of a config."""
    from nl_training.data import load

    return load(**asdict(config.data), seed=config.seed)


def data_options(data: DataConfig) -> dict[str, Any]:
    """Return the keys of a data set that not all have, which its reader takes."""
    from nl_training.config.schema import DataConfig

    common = {field.name for field in fields(DataConfig)}
    return {key: value for key, value in asdict(data).items() if key not in common}


def network(config: Config, data: Dataset, device: Device) -> Network:
    """Build the network of a config with the input shape and classes of a data set."""
    from nl_models import build

    regularization = config.regularization
    return build(
        **asdict(config.model),
        input_shape=data.input_shape,
        classes=len(data.classes),
        label_smoothing=regularization.label_smoothing,
        batch_norm=regularization.batch_norm,
        dropout=regularization.dropout,
        seed=config.seed,
        device=device,
    )


def trainer(
    config: Config,
    cfg: Any,
    net: Network,
    data: Dataset,
    callbacks: Sequence[Callback],
    checkpoints: Checkpoints | None = None,
) -> Trainer:
    """Build the trainer of a config; `cfg` is the same config as Hydra composed it."""
    from nl_training.training.trainer import Trainer, TrainOptions

    t, built = config.trainer, optimizer(cfg)
    limits = (t.epochs, t.batch_size, t.max_steps, t.target_accuracy, t.on_nan, t.patience, t.max_seconds)
    options = TrainOptions(*limits, t.accumulate, regularization(config, data))
    decay = weight_decay(config, built)
    return Trainer(net, built, schedule(cfg), data, options, decay, config.seed, callbacks, checkpoints)


def training(config: Config, cfg: Any, data: Dataset, epoch: EpochBatches) -> Training:
    """Describe the training of a config for its verification."""
    from nl_training.verification import Training

    built, t = optimizer(cfg), config.trainer
    evaluated = frozenset(len(split) for split in (data.validation, data.test) if split)
    epochs = min(t.epochs, (t.max_steps or inf) / epoch.count)
    decay = weight_decay(config, built)
    sizes = frozenset(epoch.sizes)
    course, regularized = schedule(cfg), regularization(config, data)
    return Training(data.train, sizes, evaluated, epochs, built, course, decay, epoch.accumulate, regularized)


def regularization(config: Config, data: Dataset) -> Regularization:
    """Build the regularization by the training loop of a config."""
    from nl_training.data.augment import augmentations
    from nl_training.training.regularization import Regularization

    r = config.regularization
    return Regularization(augmentations(r.augment, data.input_shape[0]), r.mixup, r.clip_norm, r.ema)


def weight_decay(config: Config, optimizer: Optimizer) -> float:
    """Return the coefficient of weight decay; 0 for an optimizer with its own (AdamW, Lion, LAMB, Muon)."""
    return 0.0 if hasattr(optimizer, "weight_decay") else config.regularization.weight_decay
