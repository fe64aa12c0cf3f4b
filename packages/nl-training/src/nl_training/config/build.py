"""The objects that a config names: the only place that instantiates."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from hydra.utils import instantiate

if TYPE_CHECKING:
    from nl_layers.optimizers import Optimizer
    from nl_layers.schedules import Schedule
    from nl_models import Network
    from nl_nodes import Device
    from nl_training.config.schema import Config
    from nl_training.data import Dataset


def optimizer(cfg: Any) -> Optimizer:
    """The optimizer of a checked config."""
    made: Optimizer = instantiate(cfg.optimizer)
    return made


def schedule(cfg: Any) -> Schedule:
    """The schedule of a checked config."""
    made: Schedule = instantiate(cfg.schedule)
    return made


def device(config: Config) -> Device:
    """The device of a config; raises `DeviceError` when it is not there."""
    from nl_nodes import Device

    return Device(**asdict(config.device))


def dataset(config: Config) -> Dataset:
    """The data set of a config."""
    from nl_training.data import load

    return load(**asdict(config.data), seed=config.seed)


def network(config: Config, data: Dataset, device: Device) -> Network:
    """The network of a config, fitting a data set."""
    from nl_models import build

    regularization = config.regularization
    return build(
        **asdict(config.model),
        input_shape=data.input_shape,
        classes=len(data.classes),
        batch_norm=regularization.batch_norm,
        dropout=regularization.dropout,
        seed=config.seed,
        device=device,
    )
