"""The predict command: classify image files with a logged run's network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.table import Table

from nl_nodes import UserError
from nl_training.config.run_command import run_command
from nl_training.data import PixelFormat, read_image
from nl_training.data.pixels import EIGHT_BITS, Array
from nl_training.tracking.logged_run import LoggedRun, open_run
from nl_training.tracking.model import softmax

if TYPE_CHECKING:
    from nl_training.config.schema import Config

INVERT = ("auto", "yes", "no")
HELP = """Prints the classes and probabilities of image files, predicted with a logged run's best weights.

  nl predict run=latest three.png seven.jpg
  nl predict run=latest invert=no scan.png

An image is turned upright and converted to the channels, size and range of the run's images. With invert=auto, the
default, an image with a light background is inverted if the run's images are grey with a dark one, or the opposite, and
a note is printed; invert=yes inverts all, invert=no none."""


def main() -> None:
    """Classify the files of the command line."""

    def task(run_id: str, config: Config, words: list[str]) -> None:
        files = [word for word in words if not word.startswith("invert=")]
        invert = [word.removeprefix("invert=") for word in words if word.startswith("invert=")]
        if not files:
            raise UserError("which files? nl predict run=ID FILE...")
        predict(run_id, config, files, *invert[-1:])

    run_command(task, HELP, words=True)


def predict(run_id: str, config: Config, files: Sequence[str], invert: str = "auto") -> None:
    """Print the classes and probabilities of image files.

    Args:
        run_id: the run's ID.
        config: the config with the store and the experiment.
        files: images of any size, grey or colour; they are converted to the format of the run's data.
        invert: "yes" inverts every image, "no" none. "auto" inverts images whose background is light where the run's
            is dark, or the opposite, but only if the run's images are grey: inverting changes the colours of others.
            Unless it is "yes", the names of such images are printed.
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
    """Read the files as images (N, C, H, W) in the format of the run's raw images."""
    c, h, w = run.net.input_shape
    pixels = run.pixels or PixelFormat(c, (h, w))
    x = np.stack([read_image(file, (c, h, w), pixels.matte) for file in files])
    if invert == "yes":
        return pixels.adapt(x, EIGHT_BITS, invert=True)
    opposite, inverting = pixels.inverted(x), invert == "auto" and pixels.invertible
    if opposite.any():
        names = ", ".join(file for file, found in zip(files, opposite, strict=True) if found)
        hint = "inverted here; invert=no keeps them" if inverting else "invert=yes inverts them"
        print(f"background not {pixels.ground} as in the run's images ({hint}): {names}")
    return pixels.adapt(x, EIGHT_BITS, opposite & inverting)
