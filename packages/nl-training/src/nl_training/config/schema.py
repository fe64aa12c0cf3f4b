"""Schema of the config: the keys of every group, with types and ranges.

The files in `conf/` give the same keys with defaults and comments; a test compares the two.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from nl_nodes import UserError
from nl_training.config.experiments import ExperimentConfig
from nl_training.config.ranges import (
    AtLeastOne,
    Count,
    Fraction,
    In,
    Natural,
    NotNegative,
    OpenFraction,
    Positive,
    PositiveFraction,
    Registered,
    Seed,
    Share,
    Width,
)


@dataclass(frozen=True)
class ModelConfig:
    """Schema of conf/model."""

    name: Annotated[str, In(Registered("nl_models:MODELS"))]
    width: Width
    activation: Annotated[str, In(Registered("nl_models.builder:ACTIVATIONS"))]
    init: Literal["he", "xavier"] | Positive


@dataclass(frozen=True)
class MlpConfig(ModelConfig):
    """Schema of conf/model/mlp.yaml and the textbook's variants."""

    hidden: tuple[Count, ...] | None


@dataclass(frozen=True)
class ResNetConfig(ModelConfig):
    """Schema of conf/model/resnet18.yaml to resnet56.yaml."""

    shortcuts: bool


@dataclass(frozen=True)
class SGDConfig:
    """Schema of conf/optimizer/sgd.yaml; every optimizer has this key."""

    lr: Positive


@dataclass(frozen=True)
class MomentumConfig(SGDConfig):
    """Schema of conf/optimizer/momentum.yaml and nesterov.yaml."""

    momentum: Share


@dataclass(frozen=True)
class AdaGradConfig(SGDConfig):
    """Schema of conf/optimizer/adagrad.yaml."""

    eps: Positive


@dataclass(frozen=True)
class RMSpropConfig(AdaGradConfig):
    """Schema of conf/optimizer/rmsprop.yaml."""

    decay: Share


@dataclass(frozen=True)
class AdamConfig(AdaGradConfig):
    """Schema of conf/optimizer/adam.yaml."""

    beta1: Share
    beta2: Share


@dataclass(frozen=True)
class AdamWConfig(AdamConfig):
    """Schema of conf/optimizer/adamw.yaml and lamb.yaml."""

    weight_decay: NotNegative


@dataclass(frozen=True)
class LionConfig(SGDConfig):
    """Schema of conf/optimizer/lion.yaml."""

    beta1: Share
    beta2: Share
    weight_decay: NotNegative


@dataclass(frozen=True)
class MuonConfig(AdamWConfig):
    """Schema of conf/optimizer/muon.yaml."""

    momentum: Share


@dataclass(frozen=True)
class CosineConfig:
    """Schema of conf/schedule/cosine.yaml."""

    warmup: NotNegative
    final: Fraction


@dataclass(frozen=True)
class ConstantConfig:
    """Schema of conf/schedule/constant.yaml."""


@dataclass(frozen=True)
class StepConfig:
    """Schema of conf/schedule/step.yaml."""

    every: Positive
    gamma: PositiveFraction


Augment = Literal["auto", "shift", "crop_flip", "cutout"]


@dataclass(frozen=True)
class OneCycleConfig:
    """Schema of conf/schedule/onecycle.yaml."""

    pct_start: OpenFraction
    div_factor: AtLeastOne
    final_div_factor: AtLeastOne


@dataclass(frozen=True)
class ExponentialConfig:
    """Schema of conf/schedule/exponential.yaml."""

    gamma: PositiveFraction


@dataclass(frozen=True)
class ReduceOnPlateauConfig:
    """Schema of conf/schedule/plateau.yaml."""

    gamma: PositiveFraction
    patience: Natural
    threshold: Share


@dataclass(frozen=True)
class RegularizationConfig:
    """Schema of conf/regularization."""

    weight_decay: NotNegative
    dropout: Share
    batch_norm: bool | Literal["before_activation", "before_affine", "after_activation"]
    # These have defaults because configs of older runs lack their keys.
    label_smoothing: Share = 0.0
    augment: Augment | tuple[Augment, ...] | None = None
    mixup: NotNegative = 0.0
    clip_norm: Positive | None = None
    ema: OpenFraction | None = None


@dataclass(frozen=True)
class DeviceConfig:
    """Schema of conf/device."""

    name: Literal["cpu", "gpu"]
    dtype: Literal["float32", "float64"]
    compile: bool
    threads: Count | None
    workers: Literal["auto", "threads", "processes"]
    index: Natural
    tf32: bool
    debug: bool = False  # has a default because configs of older runs lack this key


@dataclass(frozen=True)
class DataConfig:
    """Schema of conf/data."""

    name: Annotated[str, In(Registered("nl_training.data:READERS"))]
    root: str | None
    validation: Share
    normalize: bool
    # It has a default because configs of older runs lack this key.
    limit: Count | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class ImagesConfig(DataConfig):
    """Schema of conf/data/images.yaml."""

    size: tuple[Count, Count] | None = None  # has a default because configs of older runs lack this key


@dataclass(frozen=True)
class CsvConfig(DataConfig):
    """Schema of conf/data/csv.yaml."""

    label: str | Count | None
    shape: tuple[Count, Count, Count] | None


@dataclass(frozen=True)
class TrainerConfig:
    """Schema of conf/trainer."""

    epochs: Count
    batch_size: Count
    max_steps: Count | None
    target_accuracy: PositiveFraction | None
    checkpoint_every_steps: Count | None
    checkpoint_every_seconds: Positive | None
    on_nan: Literal["stop", "skip"]
    profile: bool
    # These have defaults because configs of older runs lack their keys.
    accumulate: Count = 1
    patience: Count | None = None
    max_seconds: Positive | None = None
    curvature_every: Count | None = None


# The tags of runs up to the first dot.
RESERVED_TAGS = (
    "mlflow", "best", "dataset", "device", "error", "experiment", "git", "jobs", "machine", "model", "resume",
    "resumed", "search", "sweep", "trials", "verify", "version",
)  # fmt: skip


@dataclass(frozen=True)
class TrackingConfig:
    """Schema of conf/tracking."""

    enabled: bool
    uri: str | None
    experiment_name: str | None
    draw: bool
    # These have defaults because configs of older runs lack them.
    name: str | None = None
    tags: Mapping[str, str | int | float | bool] | None = None
    note: str | None = None
    pictures: Literal["later", "now", "never"] = "later"
    model: Literal["later", "now", "never"] = "later"
    files: Literal["csv", "tensorboard"] | None = None

    def __post_init__(self) -> None:
        """Refuse a tag that MLflow does not take, or that a run already has."""
        for key in self.tags or {}:
            if (head := key.partition(".")[0]) in RESERVED_TAGS:
                raise UserError(f"tracking.tags: {key} is reserved: choose a name that is not {head} or {head}.*")
            if not re.fullmatch(r"\w[\w\-. :]{0,249}", key):
                raise UserError(f"tracking.tags: {key!r} must be up to 250 letters, digits and _ - . : or spaces")


@dataclass(frozen=True)
class VerifyConfig:
    """Schema of conf/verify."""

    mode: Literal["warn", "strict", "off"]
    max_seconds: Positive
    probe_every: Count | None


@dataclass(frozen=True)
class SweepConfig:
    """Schema of the key `sweep`."""

    resume: str | None


@dataclass(frozen=True)
class SearchConfig:
    """Schema of conf/search."""

    sampler: Literal["tpe", "random"]
    trials: Count
    startup: Natural
    prune: bool
    warmup_epochs: Natural
    resume: str | None
    space: tuple[str, ...]


@dataclass(frozen=True)
class Config:
    """The config of one run."""

    model: ModelConfig
    optimizer: SGDConfig
    schedule: CosineConfig | ConstantConfig | StepConfig | OneCycleConfig | ExponentialConfig | ReduceOnPlateauConfig
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
    own: Mapping[str, Any]  # the groups of GROUPS, by name
    imports: tuple[str, ...] = ()  # has a default because configs of older runs lack this key


# Registries that a plugin adds its own dataclasses to (docs/tutorial.md), as to `config.experiments.STUDIES`.
# Schemas of models and data sets with keys of their own, by `name`; the others have those of the group.
RESNETS = dict.fromkeys(("resnet18", "resnet20", "resnet32", "resnet44", "resnet56"), ResNetConfig)
NAMED: dict[str, dict[str, type]] = {
    "model": {"mlp": MlpConfig, **RESNETS},
    "data": {"images": ImagesConfig, "csv": CsvConfig},
}
# Schemas of groups that this project does not have, by name.
GROUPS: dict[str, type] = {}
# Valid values of `_target_` by group, with the schema of each.
TARGETS: dict[str, dict[str, type]] = {
    "optimizer": {
        "nl_layers.optimizers.SGD": SGDConfig,
        "nl_layers.optimizers.Momentum": MomentumConfig,
        "nl_layers.optimizers.Nesterov": MomentumConfig,
        "nl_layers.optimizers.AdaGrad": AdaGradConfig,
        "nl_layers.optimizers.RMSprop": RMSpropConfig,
        "nl_layers.optimizers.Adam": AdamConfig,
        "nl_layers.optimizers.AdamW": AdamWConfig,
        "nl_layers.optimizers.Lion": LionConfig,
        "nl_layers.optimizers.LAMB": AdamWConfig,
        "nl_layers.optimizers.Muon": MuonConfig,
    },
    "schedule": {
        "nl_layers.schedules.Cosine": CosineConfig,
        "nl_layers.schedules.Constant": ConstantConfig,
        "nl_layers.schedules.Step": StepConfig,
        "nl_layers.schedules.OneCycle": OneCycleConfig,
        "nl_layers.schedules.Exponential": ExponentialConfig,
        "nl_layers.schedules.ReduceOnPlateau": ReduceOnPlateauConfig,
    },
}
