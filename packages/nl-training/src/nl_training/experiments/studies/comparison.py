"""Comparison of trainings that differ in a few config keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nl_training.config.experiments import ComparisonConfig
from nl_training.experiments.result import LINES, Figures, dress, panels
from nl_training.experiments.train import TrainedNetwork, train_variants
from nl_training.viz.plots import smooth

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from omegaconf import DictConfig

    from nl_training.config.schema import Config


def run(config: Config, cfg: DictConfig) -> Figures:
    """Train each variant, and compare training losses and test accuracies."""
    o = config.experiment
    assert isinstance(o, ComparisonConfig)
    trained = train_variants(o.variants, cfg)
    numbers = {}
    for run in trained:
        numbers[f"{run.label}: last losses"] = smooth(run.losses)[-1]
        numbers[f"{run.label}: test accuracy"] = run.metric("test/acc")[-1]
        if run.result.steps_to_target is not None and run.result.seconds_to_target is not None:
            numbers[f"{run.label}: steps to target"] = float(run.result.steps_to_target)
            numbers[f"{run.label}: seconds to target"] = run.result.seconds_to_target
    return Figures({o.name: draw(trained, config.trainer.target_accuracy)}, numbers, trained)


def draw(trained: tuple[TrainedNetwork, ...], target: float | None = None) -> Figure:
    """Plot smoothed training loss and test accuracy over the steps."""
    figure, (left, right) = panels(1, 2, width=5.0, height=3.6)
    for look, run in zip(LINES, trained, strict=False):
        left.plot(range(1, len(run.losses) + 1), smooth(run.losses), label=run.label, **look)
        right.plot(run.steps, run.metric("test/acc"), **{**look, "markevery": 1})
    if target is not None:
        right.axhline(target, color="black", linestyle=":", linewidth=1, label=f"target {target:g}")
    left.set_yscale("log")
    dress(left, "step", "loss of the batch (smoothed)")
    dress(right, "step", "accuracy on the test set", legend=False)
    return figure
