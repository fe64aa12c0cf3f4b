"""What evaluate and predict do and print."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.table import Table

from nl_nodes import UserError
from nl_training.config import build
from nl_training.data import PixelFormat, load_test, read_image
from nl_training.data.pixels import EIGHT_BITS, Array
from nl_training.paths import leaving
from nl_training.tracking.logged_run import LoggedRun, open_run
from nl_training.tracking.model import softmax
from nl_training.viz import plots

if TYPE_CHECKING:
    from nl_training.config.schema import Config

INVERT = ("auto", "yes", "no")


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
    data = (resolve(run.config) if same_data else config).data
    test, classes = load_test(data.name, data.root, getattr(data, "size", None), run.pixels, run.normalization)
    shape = test.x.shape[1:]
    if shape != run.net.input_shape or len(classes) != run.net.classes:
        raise UserError(
            f"data={data.name} has images {shape} of {len(classes)} classes; "
            f"run {run.run_id} was trained on {run.net.input_shape} of {run.net.classes}"
        )
    if classes != run.classes:
        print(f"classes go by their order: {', '.join(classes)} for the run's {', '.join(run.classes)}")
    loss, accuracy = run.net.evaluate(test.x, test.t)
    probabilities = softmax(run.net.device.host(run.net.predict(test.x)))
    guess = np.argmax(probabilities, axis=1)
    table = Table("class", "images", "right", title=f"{run.net.name} on {data.name}")
    for label, name in enumerate(classes):
        of_class = test.t == label
        table.add_row(name, str(of_class.sum()), f"{(guess[of_class] == label).mean():.4f}" if of_class.any() else "-")
    console = Console()
    console.print(table)
    print(f"test accuracy {accuracy:.4f}, loss {loss:.4f} on {len(test):,} images")
    with leaving("pictures", "evaluate", run.run_id) as folder:
        plots.confusion_matrix(test.t, guess, classes).savefig(folder / "confusion_matrix.png")
        mistakes = plots.worst_mistakes(test.x, test.t, probabilities, classes)
        mistakes.savefig(folder / "worst_mistakes.png")
    return accuracy


def predict(run_id: str, config: Config, files: Sequence[str], invert: str = "auto") -> None:
    """Classes and probabilities of image files, by a run's network.

    Args:
        run_id: the run.
        config: names the store and the experiment.
        files: pictures of any size, grey or colour: they are brought to how the run's data look.
        invert: "yes" inverts every picture, "no" none. "auto" inverts those that have a light ground where the run's
            pictures have a dark one, or the opposite, if the run's are grey: a colour picture would become another.
            Which pictures these are is printed unless it is "yes".
    """
    if invert not in INVERT:
        raise UserError(f"invert={invert} must be {', '.join(INVERT[:-1])} or {INVERT[-1]}")
    run = open_run(run_id, config.tracking)
    probabilities = softmax(run.net.predict(run.normalization.apply(_pixels(run, files, invert))))
    table = Table("file", "class", "probability", "next")
    for file, row in zip(files, probabilities, strict=True):
        first, *others = np.argsort(row)[::-1][:3]
        rest = ", ".join(f"{run.classes[k]} {row[k]:.1%}" for k in others)
        table.add_row(file, run.classes[first], f"{row[first]:.1%}", rest)
    Console().print(table)


def _pixels(run: LoggedRun, files: Sequence[str], invert: str) -> Array:
    """The pictures in files (N, C, H, W) as the run's raw images look."""
    c, h, w = run.net.input_shape
    like = run.pixels or PixelFormat(c, (h, w))
    x = np.stack([read_image(file, (c, h, w), like.matte) for file in files])
    if invert == "yes":
        return like.adapt(x, EIGHT_BITS, invert=True)
    opposite, turned = like.inverted(x), invert == "auto" and like.invertible
    if opposite.any():
        names = ", ".join(file for file, found in zip(files, opposite, strict=True) if found)
        done = "taken inverted; invert=no takes them as they are" if turned else "invert=yes inverts them"
        print(f"not of {like.ground} ground, as the run's pictures are ({done}): {names}")
    return like.adapt(x, EIGHT_BITS, opposite & turned)
