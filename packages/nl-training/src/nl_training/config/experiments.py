"""What a file in `conf/experiment/` may hold under the key `experiment`: the same for all, and each study's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from nl_training.config.ranges import Count, NotNegative, Positive

Changes = Mapping[str, Any]


@dataclass(frozen=True)
class Experiment:
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
class Comparison(Experiment):
    """Trainings that differ in a few keys.

    Attributes:
        variants: by label, the keys that one changes, such as `{optimizer: sgd, optimizer.lr: 0.1}`.
    """

    variants: Mapping[str, Changes]


@dataclass(frozen=True)
class Overfitting(Comparison):
    """A comparison on few images.

    Attributes:
        images: how many of the training images are used.
        ancestral: the variant that is trained once more, with the ancestors' scaling of dropout; null for none.
    """

    images: Count
    ancestral: str | None


@dataclass(frozen=True)
class BatchNormGrid(Experiment):
    """Batch norm at many weight scales; `scales` are standard deviations of the initial weights."""

    images: Count
    scales: tuple[Positive, ...]


@dataclass(frozen=True)
class Search(Experiment):
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
class OptimizerPaths(Experiment):
    """Optimizers on a valley; `learning_rates` by the optimizer's class."""

    start_x: float
    start_y: float
    steps: Count
    learning_rates: Mapping[str, Any]


@dataclass(frozen=True)
class Descent(Experiment):
    """Gradient descent on x^2 + y^2."""

    start_x: float
    start_y: float
    steps: Count
    lr: Positive


@dataclass(frozen=True)
class Activations(Experiment):
    """Activations of deep layers; `inits` are he, xavier or standard deviations."""

    layers: Count
    width: Count
    samples: Count
    functions: tuple[Literal["sigmoid", "tanh", "relu"], ...]
    inits: tuple[Literal["he", "xavier"] | Positive, ...]


@dataclass(frozen=True)
class Apples(Experiment):
    """Shopping as a graph of nodes: two kinds of fruit, their counts and prices, and the tax."""

    apples: NotNegative
    apple_price: NotNegative
    oranges: NotNegative
    orange_price: NotNegative
    tax: Positive


@dataclass(frozen=True)
class OfImages(Experiment):
    """A study on so many images."""

    images: Count


STUDIES: dict[str, type[Experiment]] = {
    "activation_functions": Experiment,
    "activation_histograms": Activations,
    "apples": Apples,
    "batch_norm_grid": BatchNormGrid,
    "batch_prediction": OfImages,
    "comparison": Comparison,
    "descent": Descent,
    "filters": Experiment,
    "gradient_check": OfImages,
    "half_float": OfImages,
    "optimizer_paths": OptimizerPaths,
    "overfitting": Overfitting,
    "rounding": Experiment,
    "search": Search,
    "training": Experiment,
}
