"""What a file in `conf/experiment/` may hold under the key `experiment`: the same for all, and each study's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from nl_training.config.ranges import Count, NotNegative, Positive

Changes = Mapping[str, Any]


@dataclass(frozen=True)
class ExperimentConfig:
    """The keys of every experiment.

    Attributes:
        name: its file's.
        study: the function that runs it, of `nl_training.experiments`; "training" is an ordinary training.
        title: what it is, in a few words.
        source: where the figure or number that it reproduces comes from.
        see: what to see in its result, and what differs from the source.
        small: a config that is laid over this one by `reduced=true`: a look in seconds.
    """

    name: str
    study: str
    title: str
    source: str
    see: str
    small: Changes


@dataclass(frozen=True)
class ComparisonConfig(ExperimentConfig):
    """Trainings that differ in a few keys.

    Attributes:
        variants: by label, the keys that one changes, such as `{optimizer: sgd, optimizer.lr: 0.1}`.
    """

    variants: Mapping[str, Changes]


@dataclass(frozen=True)
class OverfittingConfig(ComparisonConfig):
    """A comparison on few images.

    Attributes:
        images: how many of the training images are used.
        ancestral: the variant that is trained once more, with the ancestors' scaling of dropout; null for none.
    """

    images: Count
    ancestral: str | None


@dataclass(frozen=True)
class BatchNormGridConfig(ExperimentConfig):
    """Batch norm at many weight scales; `scales` are standard deviations of the initial weights."""

    images: Count
    scales: tuple[Positive, ...]


@dataclass(frozen=True)
class SearchConfig(ExperimentConfig):
    """A random search; the logarithms of what is drawn are uniform within these bounds.

    Attributes:
        images: how many of the training images are used.
        draws: how many trainings.
        shown: how many of the best are drawn.
    """

    images: Count
    draws: Count
    shown: Count
    lr_low: Positive
    lr_high: Positive
    weight_decay_low: Positive
    weight_decay_high: Positive


@dataclass(frozen=True)
class OptimizerPathsConfig(ExperimentConfig):
    """Optimizers on a valley; `learning_rates` by the optimizer's class."""

    start_x: float
    start_y: float
    steps: Count
    learning_rates: Mapping[str, Any]


@dataclass(frozen=True)
class DescentConfig(ExperimentConfig):
    """Gradient descent on x^2 + y^2."""

    start_x: float
    start_y: float
    steps: Count
    lr: Positive


@dataclass(frozen=True)
class ActivationsConfig(ExperimentConfig):
    """Activations of deep layers; `inits` are he, xavier or standard deviations."""

    layers: Count
    width: Count
    samples: Count
    functions: tuple[Literal["sigmoid", "tanh", "relu"], ...]
    inits: tuple[Literal["he", "xavier"] | Positive, ...]


@dataclass(frozen=True)
class ApplesConfig(ExperimentConfig):
    """Shopping as a graph of nodes: two kinds of fruit, their counts and prices, and the tax."""

    apples: NotNegative
    apple_price: NotNegative
    oranges: NotNegative
    orange_price: NotNegative
    tax: Positive


@dataclass(frozen=True)
class OfImagesConfig(ExperimentConfig):
    """A study on so many images."""

    images: Count


STUDIES: dict[str, type[ExperimentConfig]] = {
    "activation_functions": ExperimentConfig,
    "activation_histograms": ActivationsConfig,
    "apples": ApplesConfig,
    "batch_norm_grid": BatchNormGridConfig,
    "batch_prediction": OfImagesConfig,
    "comparison": ComparisonConfig,
    "descent": DescentConfig,
    "filters": ExperimentConfig,
    "gradient_check": OfImagesConfig,
    "half_float": OfImagesConfig,
    "optimizer_paths": OptimizerPathsConfig,
    "overfitting": OverfittingConfig,
    "rounding": ExperimentConfig,
    "search": SearchConfig,
    "training": ExperimentConfig,
}
