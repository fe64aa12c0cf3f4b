"""What a config may hold: every group's keys with their types and ranges, and nothing else.

The files in `conf/` hold the same keys with their defaults and comments; a test keeps the two alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nl_training.config.experiments import ExperimentConfig
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
class ModelConfig:
    """conf/model."""

    name: str
    width: Width
    activation: Literal["relu", "sigmoid", "tanh"]
    init: Literal["he", "xavier"] | Positive


@dataclass(frozen=True)
class MlpConfig(ModelConfig):
    """conf/model/mlp.yaml and the textbook's forms of it."""

    hidden: tuple[Count, ...] | None


@dataclass(frozen=True)
class SGDConfig:
    """conf/optimizer/sgd.yaml; every optimizer has its key."""

    lr: Positive


@dataclass(frozen=True)
class MomentumConfig(SGDConfig):
    """conf/optimizer/momentum.yaml and nesterov.yaml."""

    momentum: Share


@dataclass(frozen=True)
class AdaGradConfig(SGDConfig):
    """conf/optimizer/adagrad.yaml."""

    eps: Positive


@dataclass(frozen=True)
class RMSpropConfig(AdaGradConfig):
    """conf/optimizer/rmsprop.yaml."""

    decay: Share


@dataclass(frozen=True)
class AdamConfig(AdaGradConfig):
    """conf/optimizer/adam.yaml."""

    beta1: Share
    beta2: Share


@dataclass(frozen=True)
class AdamWConfig(AdamConfig):
    """conf/optimizer/adamw.yaml."""

    weight_decay: NotNegative


@dataclass(frozen=True)
class CosineConfig:
    """conf/schedule/cosine.yaml."""

    warmup: NotNegative
    final: Fraction


@dataclass(frozen=True)
class ConstantConfig:
    """conf/schedule/constant.yaml."""


@dataclass(frozen=True)
class StepConfig:
    """conf/schedule/step.yaml."""

    every: Positive
    gamma: PositiveFraction


@dataclass(frozen=True)
class RegularizationConfig:
    """conf/regularization."""

    weight_decay: NotNegative
    dropout: Share
    batch_norm: bool | Literal["before_activation", "before_affine", "after_activation"]


@dataclass(frozen=True)
class DeviceConfig:
    """conf/device."""

    name: Literal["cpu", "gpu"]
    dtype: Literal["float32", "float64"]
    compile: bool
    threads: Count | None
    workers: Literal["auto", "threads", "processes"]
    index: Natural
    tf32: bool


@dataclass(frozen=True)
class DataConfig:
    """conf/data."""

    name: str
    root: str | None
    validation: Share
    normalize: bool


@dataclass(frozen=True)
class ImagesConfig(DataConfig):
    """conf/data/images.yaml."""

    size: tuple[Count, Count] | None = None  # a default: runs before this key lack it


@dataclass(frozen=True)
class TrainerConfig:
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
class TrackingConfig:
    """conf/tracking."""

    enabled: bool
    uri: str | None
    experiment_name: str
    draw: bool


@dataclass(frozen=True)
class VerifyConfig:
    """conf/verify."""

    mode: Literal["warn", "strict", "off"]
    max_seconds: Positive
    probe_every: Count | None


@dataclass(frozen=True)
class SweepConfig:
    """The key `sweep`."""

    resume: str | None


@dataclass(frozen=True)
class SearchConfig:
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

    model: ModelConfig
    optimizer: SGDConfig
    schedule: CosineConfig | ConstantConfig | StepConfig
    regularization: RegularizationConfig
    device: DeviceConfig
    data: DataConfig
    trainer: TrainerConfig
    tracking: TrackingConfig
    verify: VerifyConfig
    experiment: ExperimentConfig | None
    reduced: bool
    seed: Seed
    resume: str | None
    sweep: SweepConfig
    search: SearchConfig | None


# What `_target_` may be, and the keys that its option then has.
TARGETS: dict[str, dict[str, type]] = {
    "optimizer": {
        "nl_layers.optimizers.SGD": SGDConfig,
        "nl_layers.optimizers.Momentum": MomentumConfig,
        "nl_layers.optimizers.Nesterov": MomentumConfig,
        "nl_layers.optimizers.AdaGrad": AdaGradConfig,
        "nl_layers.optimizers.RMSprop": RMSpropConfig,
        "nl_layers.optimizers.Adam": AdamConfig,
        "nl_layers.optimizers.AdamW": AdamWConfig,
    },
    "schedule": {
        "nl_layers.schedules.Cosine": CosineConfig,
        "nl_layers.schedules.Constant": ConstantConfig,
        "nl_layers.schedules.Step": StepConfig,
    },
}
