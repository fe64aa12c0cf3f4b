"""Overfitting on few images: the gap between training and test accuracy, with and without regularization."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nl_layers import Dropout
from nl_nodes import UserError
from nl_nodes.arguments import near
from nl_training.config import build
from nl_training.config.experiments import OverfittingConfig
from nl_training.config.variants import variant
from nl_training.experiments.result import PALETTE, Figures, dress, panels
from nl_training.experiments.train import TrainedNetwork, subset, train, train_variants

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from omegaconf import DictConfig

    from nl_models import Network
    from nl_training.config.schema import Config


def run(config: Config, cfg: DictConfig) -> Figures:
    """Train each variant on the same few images, and compare its accuracy on them and on the test set."""
    o = config.experiment
    assert isinstance(o, OverfittingConfig)
    if o.ancestral is not None and o.ancestral not in o.variants:
        raise UserError(f"experiment.ancestral={o.ancestral} is not a variant: {near(o.ancestral, o.variants)}")
    data = subset(build.dataset(config), o.images, config.seed)
    trained = train_variants(o.variants, cfg, data=data, train_accuracy=True)
    if o.ancestral is not None:
        pair = variant(cfg, o.variants[o.ancestral])
        label = f"{o.ancestral}, ancestral scaling"
        trained += (train(label, *pair, data=data, prepare=scale_in_inference, train_accuracy=True),)
    numbers = {}
    for run in trained:
        numbers[f"{run.label}: train accuracy"] = run.train_accuracy[-1]
        numbers[f"{run.label}: test accuracy"] = run.metric("test/acc")[-1]
        numbers[f"{run.label}: gap"] = gap(run)
    return Figures({o.name: draw(trained)}, numbers, trained)


def gap(run: TrainedNetwork) -> float:
    """Return the final accuracy on the training images minus that on the test set."""
    return run.train_accuracy[-1] - run.metric("test/acc")[-1]


def scale_in_inference(net: Network) -> None:
    """Use the dropout of Node_Layer_Network, which scales activations in inference instead of training."""
    for layer in net.all_layers:
        if isinstance(layer, Dropout):
            layer.inverted = False


def draw(trained: tuple[TrainedNetwork, ...]) -> Figure:
    """Plot both accuracies of each training."""
    figure, axes = panels(1, len(trained), width=3.7 if len(trained) > 1 else 5.0, sharey=True)
    for axis, run in zip(axes, trained, strict=True):
        axis.plot(run.epochs, run.train_accuracy, color=PALETTE[0], label="training images")
        axis.plot(run.epochs, run.metric("test/acc"), "--", color=PALETTE[2], label="test set")
        axis.fill_between(run.epochs, run.metric("test/acc"), run.train_accuracy, color=PALETTE[1], alpha=0.2)
        axis.set_ylim(0, 1.03)
        dress(axis, "epoch", "accuracy", f"{run.label}: gap {gap(run):.3f}")
    return figure
