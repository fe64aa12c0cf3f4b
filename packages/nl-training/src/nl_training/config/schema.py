"""What a configuration holds: one dataclass per group, with the type and range of every key.

Defaults and their meaning stand in `conf/`; this is what they are held to. To add a key, add it here and to the YAML
files of its group: either alone is refused. Where a group is a union, an option is held to the class whose `name`
lists it, else to the one whose `name` is any text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from nl_training.config.ranges import Count, Factor, Index, NonNegative, Positive, Range, Share, Target

Width = Annotated[int, Range(4)]


@dataclass(frozen=True)
class Model:
    """Any model: `target` is the function that makes it."""

    name: str
    target: str
    width: Width
    activation: Literal["relu", "sigmoid", "tanh"]
    init: Literal["he", "xavier"] | Positive


@dataclass(frozen=True)
class Mlp(Model):
    """A multilayer perceptron: `hidden` lists its hidden layers' widths, None stands for four of `width`."""

    name: Literal["mlp", "two_layer", "neuralnet"]
    hidden: tuple[Count, ...] | None


@dataclass(frozen=True)
class Optimizer:
    """Any optimizer: `target` is its class."""

    name: str
    target: str
    lr: Positive


@dataclass(frozen=True)
class Momentum(Optimizer):
    """Momentum and Nesterov's."""

    name: Literal["momentum", "nesterov"]
    momentum: Share


@dataclass(frozen=True)
class AdaGrad(Optimizer):
    """AdaGrad."""

    name: Literal["adagrad"]
    eps: Positive


@dataclass(frozen=True)
class RMSprop(Optimizer):
    """RMSprop."""

    name: Literal["rmsprop"]
    decay: Share
    eps: Positive


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam."""

    name: Literal["adam"]
    beta1: Share
    beta2: Share
    eps: Positive


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay."""

    name: Literal["adamw"]  # type: ignore[assignment]
    weight_decay: NonNegative


@dataclass(frozen=True)
class Schedule:
    """Any schedule: `target` is its class."""

    name: str
    target: str


@dataclass(frozen=True)
class Step(Schedule):
    """Falls by `gamma` every `every` epochs."""

    name: Literal["step"]
    every: Positive
    gamma: Target


@dataclass(frozen=True)
class Cosine(Schedule):
    """Rises for `warmup` epochs, then falls to `final`."""

    name: Literal["cosine"]
    warmup: NonNegative
    final: Factor


@dataclass(frozen=True)
class Regularization:
    """What keeps a network from learning its training data by heart."""

    name: str
    weight_decay: NonNegative
    dropout: Share
    batch_norm: bool | Literal["before_activation", "before_affine", "after_activation"]


@dataclass(frozen=True)
class Cpu:
    """NumPy."""

    name: Literal["cpu"]
    dtype: Literal["float32", "float64"]
    compile: bool
    threads: Count | None
    workers: Literal["auto", "threads", "processes"]


@dataclass(frozen=True)
class Gpu:
    """CuPy."""

    name: Literal["gpu"]
    dtype: Literal["float32", "float64"]
    compile: bool
    index: Index
    tf32: bool


@dataclass(frozen=True)
class Data:
    """A data set and how it is split and scaled."""

    name: str
    root: str | None
    validation: Share
    normalize: bool


@dataclass(frozen=True)
class Trainer:
    """How long to train, on what batches, and when to stop or save."""

    epochs: Count
    batch_size: Count
    max_steps: Count | None
    target_accuracy: Target | None
    checkpoint_every_steps: Count | None
    checkpoint_every_seconds: Positive | None
    on_nan: Literal["stop", "skip"]
    profile: bool


@dataclass(frozen=True)
class Tracking:
    """Where runs are recorded."""

    name: Literal["mlflow", "off"]
    uri: str | None
    experiment_name: str


@dataclass(frozen=True)
class Verify:
    """The proof of the gradients that goes with a run."""

    name: Literal["warn", "strict", "off"]
    max_seconds: Positive
    probe_every: Count | None


@dataclass(frozen=True)
class Sweep:
    """A multirun as a whole."""

    resume: str | None


@dataclass(frozen=True)
class Config:
    """Everything a training needs to know."""

    seed: Annotated[int, Range(0, 2**32 - 1)]
    resume: str | None
    sweep: Sweep
    model: Mlp | Model
    optimizer: AdamW | Adam | RMSprop | AdaGrad | Momentum | Optimizer
    schedule: Cosine | Step | Schedule
    regularization: Regularization
    device: Cpu | Gpu
    data: Data
    trainer: Trainer
    tracking: Tracking
    verify: Verify
