"""Trainings without errors, which verification must accept: narrow random ones, and every model."""

import os
from collections.abc import Callable, Iterable, Iterator
from itertools import product
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np

from nl_layers import optimizers
from nl_layers.schedules import Constant, Cosine, Exponential, OneCycle, ReduceOnPlateau, Schedule, Step
from nl_models import Network, build
from nl_nodes import Device
from nl_nodes.verify import Certificate
from nl_training.config import build as configured
from nl_training.config.build import training
from nl_training.config.cli import CONF, _compose
from nl_training.config.resolve import resolve
from nl_training.data import EpochBatches, Split
from nl_training.verification import Training, verify
from support.small_models import CLASSES, WIDTHS, fits

Made = tuple[Network, Training]

FORMS = ["plain", "batch norm", "dropout", "all", "weight decay"]
POSITIONS = ["before_activation", "before_affine", "after_activation"]
WORKERS: list[dict[str, Any]] = [
    {"threads": 1},
    {"threads": 2, "workers": "threads"},
    {"threads": 2, "workers": "processes"},
    {"compile": False},
]
ACTIVATIONS: list[dict[str, Any]] = [
    {"activation": "relu"},
    {"activation": "relu", "init": 0.01},
    {"activation": "relu", "init": "xavier"},
    {"activation": "tanh"},
    {"activation": "tanh", "init": 0.01},
    {"activation": "sigmoid", "init": "xavier"},
    {"activation": "sigmoid", "init": 2.0},  # saturated
]
OPTIMIZERS = [name for name in optimizers.__all__ if name != "Optimizer"]
SCHEDULES: list[Schedule] = [Constant(), Cosine(), Cosine(warmup=0.0, final=0.1), Step(1, 0.1), Step(0.5, 0.5)]
SCHEDULES += [OneCycle(), Exponential(0.5), ReduceOnPlateau(0.5, patience=0)]
BATCHES = [1, 2, 3, 4, 5, 7, 8, 13]
SMALLEST = {"mlp": 1, "cnn3": 6, "simple_convnet": 6, "cnn8": 4, "vgg11": 28, "vgg16": 28, "resnet20": 9, "resnet18": 9}
"""The smallest height and width of images for each model."""

THOROUGH_WIDTHS: list[int | None] = [4, 8, 16, 20, None]


def bordered(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return images from 0 to 1 with black borders."""
    x = rng.uniform(0, 1, shape)
    for axis in (2, 3):
        edge = shape[axis] // 4
        np.moveaxis(x, axis, 0)[:edge] = 0
        np.moveaxis(x, axis, 0)[shape[axis] - edge :] = 0
    return x


IMAGES: dict[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "from 0 to 1": lambda rng, shape: rng.uniform(0, 1, shape),
    "black borders": bordered,
    "normalised borders": lambda rng, shape: (bordered(rng, shape) - 0.1307) / 0.3081,
    "bytes": lambda rng, shape: np.round(255 * bordered(rng, shape)),
    "ties": lambda rng, shape: rng.integers(0, 3, shape),
    "some black": lambda rng, shape: bordered(rng, shape) * (rng.random((shape[0], 1, 1, 1)) < 0.5),
}


def narrow_training(seed: int, names: Iterable[str] = WIDTHS) -> Made:
    """Return the network and training settings for a seed; consecutive seeds cycle through models and forms."""
    rng = np.random.default_rng((seed, 1))

    def pick(choices: Any) -> Any:
        return choices[rng.integers(len(choices))]

    cases = list(product(names, FORMS))
    name, form = cases[seed % len(cases)]
    normalised = form in ("batch norm", "all")
    positions = [p for p in POSITIONS if fits(name, {"batch_norm": p})]
    shape = (pick([1, 1, 3]), *(SMALLEST[name] + int(n) for n in rng.integers(0, 4 if "vgg" in name else 9, 2)))
    net = build(
        name,
        width=WIDTHS[name],
        input_shape=shape,
        classes=pick([CLASSES, CLASSES, 2, 10]),
        batch_norm=pick(positions) if normalised else False,
        dropout=pick([0.3, 0.5]) if form in ("dropout", "all") else 0.0,
        seed=seed,
        device=Device(dtype=pick(["float32", "float32", "float64"]), **pick(WORKERS)),
        **pick(ACTIVATIONS),
    )
    if rng.random() < 0.3:  # initial biases are zero
        for value in net.params.values():
            value += rng.normal(0, 0.3, value.shape) * (value.ndim == 1)
    batch = max(pick(BATCHES), 2 if normalised or "resnet" in name else 1)
    images = batch * int(rng.integers(1, 3)) + int(rng.integers(0, batch))
    train = Split(
        pick(list(IMAGES.values()))(rng, (images, *shape)).astype(np.float32), rng.integers(0, net.classes, images)
    )
    decay = float(pick([1e-4, 1e-2])) if form in ("weight decay", "all") else 0.0
    optimizer = getattr(optimizers, pick(OPTIMIZERS))()
    if hasattr(optimizer, "weight_decay"):
        optimizer.weight_decay, decay = decay, 0.0
    sizes = frozenset(EpochBatches.of(net, images, batch).sizes)
    return net, Training(train, sizes, frozenset({6}), 3.5, optimizer, pick(SCHEDULES), decay)


def configured_trainings() -> Iterator[tuple[str, Callable[[], Made]]]:
    """Yield every model at several widths with every regularization, composed like a script's config."""
    models, regularizations = ([p.stem for p in sorted((CONF / g).glob("*.yaml"))] for g in ("model", "regularization"))
    for model, width, regularization in product(models, THOROUGH_WIDTHS, regularizations):
        overrides = [f"model={model}", f"regularization={regularization}", "trainer.batch_size=8"]
        if width is not None:
            overrides.append(f"model.width={width}")
        yield " ".join(overrides), lambda overrides=overrides: configured_training(overrides)


def configured_training(overrides: list[str]) -> Made:
    """Return the network and training settings for a command line's overrides."""
    cfg = _compose(overrides)
    config = resolve(cfg)
    data = configured.dataset(config)
    net = configured.network(config, data, configured.device(config))
    epoch = EpochBatches.of(net, len(data.train), config.trainer.batch_size)
    return net, training(config, cfg, data, epoch)


def certificate_of(net: Network, how: Training) -> Certificate:
    """Return the certificate of a training, made with an empty cache."""
    with TemporaryDirectory() as folder, patch.dict(os.environ, XDG_CACHE_HOME=folder):
        certificate = verify(net, "warn", float("inf"), training=how).certificate
    assert certificate is not None
    return certificate
