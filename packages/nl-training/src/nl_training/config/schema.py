"""What a config may hold: every group's keys with their types and ranges, and nothing else.

The files in `conf/` hold the same keys with their defaults and comments; a test keeps the two alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nl_training.config.experiments import Experiment
from nl_training.config.ranges import (
    Count,
    Fraction,
    Natural,
    NotNegative,
    Positive,
    PositiveFraction,
    Seed,
    Share,
    Width,
)


@dataclass(frozen=True)
class Model:
    """conf/model."""

    name: str
    width: Width
    activation: Literal["relu", "sigmoid", "tanh"]
    init: Literal["he", "xavier"] | Positive


@dataclass(frozen=True)
class Mlp(Model):
    """conf/model/mlp.yaml and the textbook's forms of it."""

    hidden: tuple[Count, ...] | None


@dataclass(frozen=True)
class SGD:
    """conf/optimizer/sgd.yaml; every optimizer has its key."""

    lr: Positive


@dataclass(frozen=True)
class Momentum(SGD):
    """conf/optimizer/momentum.yaml and nesterov.yaml."""

    momentum: Share


@dataclass(frozen=True)
class AdaGrad(SGD):
    """conf/optimizer/adagrad.yaml."""

    eps: Positive


@dataclass(frozen=True)
class RMSprop(AdaGrad):
    """conf/optimizer/rmsprop.yaml."""

    decay: Share


@dataclass(frozen=True)
class Adam(AdaGrad):
    """conf/optimizer/adam.yaml."""

    beta1: Share
    beta2: Share


@dataclass(frozen=True)
class AdamW(Adam):
    """conf/optimizer/adamw.yaml."""

    weight_decay: NotNegative


@dataclass(frozen=True)
class Cosine:
    """conf/schedule/cosine.yaml."""

    warmup: NotNegative
    final: Fraction


@dataclass(frozen=True)
class Constant:
    """conf/schedule/constant.yaml."""


@dataclass(frozen=True)
class Step:
    """conf/schedule/step.yaml."""

    every: Positive
    gamma: PositiveFraction


@dataclass(frozen=True)
class Regularization:
    """conf/regularization."""

    weight_decay: NotNegative
    dropout: Share
    batch_norm: bool | Literal["before_activation", "before_affine", "after_activation"]


@dataclass(frozen=True)
class Device:
    """conf/device."""

    name: Literal["cpu", "gpu"]
    dtype: Literal["float32", "float64"]
    compile: bool
    threads: Count | None
    workers: Literal["auto", "threads", "processes"]
    index: Natural
    tf32: bool


@dataclass(frozen=True)
class Data:
    """conf/data."""

    name: str
    root: str | None
    validation: Share
    normalize: bool


@dataclass(frozen=True)
class Images(Data):
    """conf/data/images.yaml."""

    size: tuple[Count, Count] | None = None  # a default: runs before this key lack it


@dataclass(frozen=True)
class Trainer:
    """conf/trainer."""

    epochs: Count
    batch_size: Count
    max_steps: Count | None
    target_accuracy: PositiveFraction | None
    checkpoint_every_steps: Count | None
    checkpoint_every_seconds: Positive | None
    on_nan: Literal["stop", "skip"]
    profile: bool


@dataclass(frozen=True)
class Tracking:
    """conf/tracking."""

    enabled: bool
    uri: str | None
    experiment_name: str
    draw: bool


@dataclass(frozen=True)
class Verify:
    """conf/verify."""

    mode: Literal["warn", "strict", "off"]
    max_seconds: Positive
    probe_every: Count | None


@dataclass(frozen=True)
class Sweep:
    """The key `sweep`."""

    resume: str | None


@dataclass(frozen=True)
class Search:
    """conf/search."""

    sampler: Literal["tpe", "random"]
    trials: Count
    startup: Natural
    prune: bool
    warmup_epochs: Natural
    resume: str | None
    space: tuple[str, ...]


@dataclass(frozen=True)
class Config:
    """A whole run."""

    model: Model
    optimizer: SGD
    schedule: Cosine | Constant | Step
    regularization: Regularization
    device: Device
    data: Data
    trainer: Trainer
    tracking: Tracking
    verify: Verify
    experiment: Experiment | None
    reduced: bool
    seed: Seed
    resume: str | None
    sweep: Sweep
    search: Search | None


# What `_target_` may be, and the keys that its option then has.
TARGETS: dict[str, dict[str, type]] = {
    "optimizer": {
        "nl_layers.optimizers.SGD": SGD,
        "nl_layers.optimizers.Momentum": Momentum,
        "nl_layers.optimizers.Nesterov": Momentum,
        "nl_layers.optimizers.AdaGrad": AdaGrad,
        "nl_layers.optimizers.RMSprop": RMSprop,
        "nl_layers.optimizers.Adam": Adam,
        "nl_layers.optimizers.AdamW": AdamW,
    },
    "schedule": {
        "nl_layers.schedules.Cosine": Cosine,
        "nl_layers.schedules.Constant": Constant,
        "nl_layers.schedules.Step": Step,
    },
}
