"""Random search of learning rate and weight decay by validation accuracy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nl_nodes import UserError
from nl_training.config import build
from nl_training.config.experiments import SearchConfig
from nl_training.config.variants import variant
from nl_training.experiments.result import PALETTE, Figures, dress, panels
from nl_training.experiments.train import TrainedNetwork, subset, train

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from omegaconf import DictConfig

    from nl_training.config.schema import Config

Draw = tuple[float, float]


def run(config: Config, cfg: DictConfig) -> Figures:
    """Train each draw, and plot the best by validation accuracy and all draws."""
    o = config.experiment
    assert isinstance(o, SearchConfig)
    if not config.data.validation:
        raise UserError("data.validation=0.0: the search compares validation accuracies; set it above 0")
    data = subset(build.dataset(config), o.images, config.seed)
    tried = [(draw, _train(cfg, draw, number, data=data)) for number, draw in enumerate(draws(o, config.seed), 1)]
    tried.sort(key=lambda pair: -pair[1].metric("val/acc")[-1])
    (lr, decay), best = tried[0]
    numbers = {
        "best lr": lr,
        "best weight decay": decay,
        "best validation accuracy": best.metric("val/acc")[-1],
        "its test accuracy": best.metric("test/acc")[-1],
        "median validation accuracy": float(np.median([run.metric("val/acc")[-1] for _, run in tried])),
    }
    return Figures(
        {"hyperparameter_search_1_best": _best(tried[: o.shown]), "hyperparameter_search_2_draws": _scatter(tried)},
        numbers,
        tuple(r for _, r in tried),
    )


def draws(o: SearchConfig, seed: int) -> list[Draw]:
    """Return log-uniform learning rates and weight decays."""
    rng = np.random.default_rng(seed)
    lr = o.lr_low * (o.lr_high / o.lr_low) ** rng.random(o.draws)
    decay = o.weight_decay_low * (o.weight_decay_high / o.weight_decay_low) ** rng.random(o.draws)
    return [(float(a), float(b)) for a, b in zip(lr, decay, strict=True)]


def _train(cfg: DictConfig, draw: Draw, number: int, **options: object) -> TrainedNetwork:
    lr, decay = draw
    pair = variant(cfg, {"optimizer.lr": lr, "regularization.weight_decay": decay})
    return train(f"draw {number}", *pair, train_accuracy=True, **options)  # type: ignore[arg-type]


def _best(best: list[tuple[Draw, TrainedNetwork]]) -> Figure:
    figure, axes = panels(-(-len(best) // 5), min(5, len(best)), width=1.8, height=1.6, sharex=True, sharey=True)
    for place, (axis, ((lr, decay), run)) in enumerate(zip(axes, best, strict=False), 1):
        axis.plot(run.epochs, run.train_accuracy, "--", color=PALETTE[0], label="training images", linewidth=1)
        axis.plot(run.epochs, run.metric("val/acc"), color=PALETTE[1], label="validation", linewidth=1.2)
        dress(axis, "", "", "", legend=False)
        axis.set_title(f"best {place}: lr {lr:.2g}, wd {decay:.1g}", fontsize=6.5)
        axis.tick_params(labelsize=6)
    axes[0].set_ylim(0, 1.03)
    figure.supxlabel("epoch", fontsize=9)
    figure.supylabel("accuracy", fontsize=9)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncol=2, fontsize=8)
    return figure


def _scatter(tried: list[tuple[Draw, TrainedNetwork]]) -> Figure:
    figure, (axis,) = panels(1, 1, width=5.2, height=3.6)
    rates, decays = zip(*(draw for draw, _ in tried), strict=True)
    points = axis.scatter(rates, decays, c=[run.metric("val/acc")[-1] for _, run in tried], vmin=0, vmax=1)
    axis.set(xscale="log", yscale="log")
    dress(axis, "learning rate", "weight decay", f"{len(tried)} draws")
    figure.colorbar(points, ax=axis, label="validation accuracy")
    return figure
