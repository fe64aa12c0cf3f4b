"""Schema of the key `experiment` in `conf/experiment/`: the common keys, and those of each study."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from nl_nodes import UserError
from nl_training.config.ranges import Count, NotNegative, Positive, Positives, Several

Changes = Mapping[str, Any]


@dataclass(frozen=True)
class ExperimentConfig:
    """Keys that every experiment has.

    Attributes:
        name: the file's name without suffix.
        study: the module in `nl_training.experiments.studies`, or of a plugin, whose `run` runs it; "training" is an
            ordinary training.
        title: a short title.
        source: the origin of the figure or number that it reproduces.
        see: what the result shows, and how it differs from the source.
        small: overrides that `reduced=true` merges over this config, for a run of seconds.
    """

    name: str
    study: str
    title: str
    source: str
    see: str
    small: Changes


@dataclass(frozen=True)
class ComparisonConfig(ExperimentConfig):
    """Several trainings that differ in a few keys.

    Attributes:
        variants: overrides by label, such as `{optimizer: sgd, optimizer.lr: 0.1}`.
    """

    variants: Mapping[str, Changes]


@dataclass(frozen=True)
class OverfittingConfig(ComparisonConfig):
    """A comparison on few images.

    Attributes:
        images: number of training images used.
        ancestral: the variant to train again with the original projects' scaling of dropout; null for none.
    """

    images: Count
    ancestral: str | None


@dataclass(frozen=True)
class BatchNormGridConfig(ExperimentConfig):
    """Batch norm for a range of initial weights; `scales` are their standard deviations."""

    images: Count
    scales: tuple[Positive, ...]


@dataclass(frozen=True)
class SearchConfig(ExperimentConfig):
    """A random search that samples log-uniformly within these bounds.

    Attributes:
        images: number of training images used.
        draws: number of trainings.
        shown: number of the best trainings to plot.
    """

    images: Count
    draws: Count
    shown: Count
    lr_low: Positive
    lr_high: Positive
    weight_decay_low: Positive
    weight_decay_high: Positive


@dataclass(frozen=True)
class LearningRateRangeConfig(ComparisonConfig):
    """Learning-rate range tests.

    Attributes:
        steps: number of steps of the test, and of each training at a constant rate, 2 or more.
        low: the learning rate of the test's first step.
        high: the learning rate of the test's last step.
        constant: the constant learning rates to train at.
    """

    steps: Several
    low: Positive
    high: Positive
    constant: Positives

    def __post_init__(self) -> None:
        """Refuse rates that do not rise."""
        if not self.low < self.high:
            raise UserError(f"experiment.low={self.low:g} must be below experiment.high={self.high:g}")


@dataclass(frozen=True)
class LossSurfaceConfig(ComparisonConfig):
    """The loss around trained weights.

    Attributes:
        images: number of training images on which the loss is computed.
        radius: the largest step along each direction; a filter changes by its own norm at 1.
        steps: number of steps to either side.
    """

    images: Count
    radius: Positive
    steps: Count


@dataclass(frozen=True)
class OptimizerPathsConfig(ExperimentConfig):
    """Optimizer paths in a narrow valley; `learning_rates` by class name of the optimizer."""

    start_x: float
    start_y: float
    steps: Count
    learning_rates: Mapping[str, Any]


@dataclass(frozen=True)
class DescentConfig(ExperimentConfig):
    """Gradient descent on `x^2 + y^2`."""

    start_x: float
    start_y: float
    steps: Count
    lr: Positive


@dataclass(frozen=True)
class ActivationsConfig(ExperimentConfig):
    """Histograms of activations by layer; `inits` are he, xavier or standard deviations."""

    layers: Count
    width: Count
    samples: Count
    functions: tuple[Literal["sigmoid", "tanh", "relu"], ...]
    inits: tuple[Literal["he", "xavier"] | Positive, ...]


@dataclass(frozen=True)
class ApplesConfig(ExperimentConfig):
    """A shopping bill as a graph of nodes: counts and prices of two kinds of fruit, and the tax."""

    apples: NotNegative
    apple_price: NotNegative
    oranges: NotNegative
    orange_price: NotNegative
    tax: Positive


@dataclass(frozen=True)
class OfImagesConfig(ExperimentConfig):
    """A study on `images` images."""

    images: Count


@dataclass(frozen=True)
class EdgeOfStabilityConfig(OfImagesConfig):
    """Gradient descent on all images.

    Attributes:
        steps: number of steps.
        every: steps between measurements of the sharpness.
        rates: the learning rates.
    """

    steps: Count
    every: Count
    rates: Positives


@dataclass(frozen=True)
class SpectrumConfig(OfImagesConfig):
    """The spectrum of the Hessian before and after training.

    Attributes:
        eigenvalues: number of the largest eigenvalues to compute, 2 or more.
        steps: steps of Lanczos for the density, from each random vector.
        probes: number of random vectors.
    """

    eigenvalues: Several
    steps: Count
    probes: Count


@dataclass(frozen=True)
class OptimizerSharpnessConfig(ComparisonConfig):
    """The curvature where optimizers arrive.

    Attributes:
        images: number of training images, on which the curvature is that of the loss.
        loss: the mean training loss at which each training ends.
        steps: the largest number of steps.
    """

    images: Count
    loss: Positive
    steps: Count


STUDIES: dict[str, type[ExperimentConfig]] = {
    "activation_functions": ExperimentConfig,
    "activation_histograms": ActivationsConfig,
    "apples": ApplesConfig,
    "batch_norm_grid": BatchNormGridConfig,
    "batch_prediction": OfImagesConfig,
    "comparison": ComparisonConfig,
    "descent": DescentConfig,
    "edge_of_stability": EdgeOfStabilityConfig,
    "filters": ExperimentConfig,
    "gradient_check": OfImagesConfig,
    "half_float": OfImagesConfig,
    "loss_surface": LossSurfaceConfig,
    "lr_range": LearningRateRangeConfig,
    "optimizer_paths": OptimizerPathsConfig,
    "overfitting": OverfittingConfig,
    "rounding": ExperimentConfig,
    "search": SearchConfig,
    "sharpness_of_optimizers": OptimizerSharpnessConfig,
    "spectrum": SpectrumConfig,
    "training": ExperimentConfig,
}
