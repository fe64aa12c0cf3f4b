"""What evaluate and predict do and print."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.table import Table

from nl_nodes import UserError
from nl_training import plots
from nl_training.config import build
from nl_training.data import read_image
from nl_training.paths import leaving
from nl_training.runs import open_run
from nl_training.tracking.model import softmax

if TYPE_CHECKING:
    from nl_training.config.schema import Config


def evaluate(run_id: str, config: Config, same_data: bool) -> float:
    """A run's network on a test set: accuracy, each class, pictures of confusion and mistakes.

    Args:
        run_id: the run.
        config: names the device, and the data unless `same_data`.
        same_data: take the run's own data set.

    Returns:
        The accuracy.
    """
    from nl_training.config.resolve import resolve

    run = open_run(run_id, config.tracking, build.device(config))
    data = build.dataset(resolve(run.config) if same_data else config)
    if data.input_shape != run.net.input_shape or len(data.classes) != run.net.classes:
        raise UserError(
            f"data={data.name} has images {data.input_shape} of {len(data.classes)} classes; "
            f"run {run.run_id} was trained on {run.net.input_shape} of {run.net.classes}"
        )
    loss, accuracy = run.net.evaluate(data.test.x, data.test.t)
    probabilities = softmax(run.net.device.host(run.net.predict(data.test.x)))
    guess = np.argmax(probabilities, axis=1)
    table = Table("class", "images", "right", title=f"{run.net.name} on {data.name}")
    for label, name in enumerate(data.classes):
        of_class = data.test.t == label
        table.add_row(name, str(of_class.sum()), f"{(guess[of_class] == label).mean():.4f}" if of_class.any() else "-")
    console = Console()
    console.print(table)
    print(f"test accuracy {accuracy:.4f}, loss {loss:.4f} on {len(data.test):,} images")
    with leaving("pictures", "evaluate", run.run_id) as folder:
        plots.confusion_matrix(data.test.t, guess, data.classes).savefig(folder / "confusion_matrix.png")
        mistakes = plots.worst_mistakes(data.test.x, data.test.t, probabilities, data.classes)
        mistakes.savefig(folder / "worst_mistakes.png")
    return accuracy


def predict(run_id: str, config: Config, files: Sequence[str]) -> None:
    """Classes and probabilities of image files, by a run's network."""
    run = open_run(run_id, config.tracking)
    c, h, w = run.net.input_shape
    pixels = np.stack([read_image(file, (c, h, w)) for file in files])
    probabilities = softmax(run.net.predict(run.normalization.apply(pixels)))
    table = Table("file", "class", "probability", "next")
    for file, row in zip(files, probabilities, strict=True):
        first, *others = np.argsort(row)[::-1][:3]
        rest = ", ".join(f"{run.classes[k]} {row[k]:.1%}" for k in others)
        table.add_row(file, run.classes[first], f"{row[first]:.1%}", rest)
    Console().print(table)
