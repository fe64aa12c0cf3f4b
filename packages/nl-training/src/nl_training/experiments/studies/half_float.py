"""Accuracy by precision: inference in float16, and training in float32 and float64."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nl_training.config import build
from nl_training.config.experiments import OfImagesConfig
from nl_training.experiments.result import PALETTE, Figures, dress, panels
from nl_training.experiments.train import TrainedNetwork, train_variants
from nl_training.viz.plots import smooth

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from omegaconf import DictConfig

    from nl_models import Network
    from nl_training.config.schema import Config

PRECISIONS = ("float64", "float32", "float16")
EVAL_BATCH = 50  # images; small, as float16 is slow in NumPy anyway and im2col takes memory


def run(config: Config, cfg: DictConfig) -> Figures:
    """Train in both precisions, then run the float64 weights in all three on some test images."""
    o = config.experiment
    assert isinstance(o, OfImagesConfig)
    data = build.dataset(config)
    variants = {dtype: {"device.dtype": dtype} for dtype in ("float64", "float32")}
    trained = train_variants(variants, cfg, data=data)
    chosen = np.random.default_rng(config.seed).permutation(len(data.test))[: o.images]
    x, t = data.test.x[chosen], data.test.t[chosen]
    logits = {dtype: predict(trained[0].net, x, dtype) for dtype in PRECISIONS}
    numbers = {f"trained in {run.label}: test accuracy": run.metric("test/acc")[-1] for run in trained}
    classes = {dtype: values.argmax(axis=1) for dtype, values in logits.items()}
    for dtype, guess in classes.items():
        numbers[f"run in {dtype}: accuracy"] = float(np.mean(guess == t))
        numbers[f"run in {dtype}: classes that differ"] = float(np.sum(guess != classes["float64"]))
    return Figures({"half_float": _draw(trained, logits)}, numbers, trained)


def predict(net: Network, x: Any, dtype: str) -> Any:
    """Return the logits, computed entirely in this dtype, as float64."""
    state = {name: value.astype(dtype) for name, value in net.state_dict().items()}
    logits = []
    for i in range(0, len(x), EVAL_BATCH):
        batch = x[i : i + EVAL_BATCH].astype(dtype)
        logits.append(net.wire(len(batch), train=False).run(x=batch, **state).results[0])
    assert logits[0].dtype == dtype
    return np.concatenate(logits).astype(float)


def _draw(trained: tuple[TrainedNetwork, ...], logits: dict[str, Any]) -> Figure:
    figure, (left, right) = panels(1, 2)
    for color, style, run in zip(PALETTE, ("-", "--"), trained, strict=False):
        left.plot(smooth(run.losses), color=color, linestyle=style, label=f"trained in {run.label}")
    left.set_yscale("log")
    dress(left, "step", "loss of the batch (smoothed)")
    size = np.abs(logits["float64"]).max()
    for color, dtype in zip(PALETTE, PRECISIONS[1:], strict=False):
        error = np.abs(logits[dtype] - logits["float64"]).ravel() / size
        right.hist(np.log10(np.maximum(error, 1e-12)), 40, color=color, alpha=0.8, label=f"run in {dtype}")
    dress(right, "log10 of the error of a logit, against the largest", "logits")
    return figure
