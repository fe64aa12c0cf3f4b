"""The evaluate command: a logged run's network on a test set."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from nl_nodes import UserError
from nl_training.config import build
from nl_training.config.run_command import run_command
from nl_training.config.sweep_jobs import key_of
from nl_training.data import RunData, Split, load_test
from nl_training.paths import optional_output
from nl_training.tracking.logged_run import open_run
from nl_training.tracking.model import softmax
from nl_training.tracking.scores import COLUMNS, TOP, Scores
from nl_training.viz import plots

if TYPE_CHECKING:
    from nl_training.config.schema import Config

HELP = """Evaluates a logged run's best weights on a test set: accuracy in total and per class, confusion matrix and
worst mistakes.

  nl evaluate run=latest
  nl evaluate run=ID data=mnist data.root=FOLDER

Without data=NAME it uses the test set of the run's own data; data.root=FOLDER says where that is now.
With it the keys of that data set may follow, such as data.label=NAME of data=csv. Of files without test images all are
tested, or those that the run was not trained on if they are its own data."""


def main() -> None:
    """Evaluate the run of the command line."""

    def task(run_id: str, config: Config, overrides: list[str]) -> None:
        given = {key_of(text): text for text in overrides}
        for key in given.keys() & {"data.limit", "data.validation", "data.normalize", "data.size", "seed"}:
            raise UserError(f"{given[key]}: the whole test set is taken, prepared as in training: leave {key} out")
        if "data" not in given:
            for key in given:
                if key.startswith("data.") and key != "data.root":
                    raise UserError(f"{given[key]}: the run's own data are taken: add data=NAME, or leave {key} out")
        evaluate(run_id, config, given)

    run_command(task, HELP, takes=("data", "seed", "device"))


def evaluate(run_id: str, config: Config, given: Collection[str]) -> float:
    """Evaluate a run's network on a test set: scores in total and per class, confusion matrix, worst mistakes.

    Args:
        run_id: the run's ID.
        config: the config with the device and the data set or its folder.
        given: the keys and groups given for it; without `data` it is the run's own data set.

    Returns:
        The accuracy.
    """
    from nl_training.config.resolve import resolve

    run = open_run(run_id, config.tracking, build.device(config))
    data = config.data
    if own := "data" not in given:
        data = resolve(run.config).data
        data = replace(data, root=config.data.root) if "data.root" in given else data
    trained, options = RunData(run.digest, run.config.data.get("limit")), build.data_options(data)
    test, classes = load_test(data.name, data.root, run.pixels, run.normalization, trained, own, **options)
    shape = test.x.shape[1:]
    if shape != run.net.input_shape or len(classes) != run.net.classes:
        raise UserError(
            f"data={data.name} has images {shape} of {len(classes)} classes; "
            f"run {run.run_id} was trained on {run.net.input_shape} of {run.net.classes}"
        )
    if set(classes) == set(run.classes):
        test, classes = Split(test.x, renumbered(test.t, classes, run.classes)), run.classes
    else:
        print(f"classes are matched by their order: {', '.join(classes)} for the run's {', '.join(run.classes)}")
    loss, accuracy = run.net.evaluate(test.x, test.t)
    probabilities = softmax(run.net.device.host(run.net.predict(test.x)))
    guess = np.argmax(probabilities, axis=1)
    scores = Scores.of(test.t, probabilities, classes)
    table = Table(*COLUMNS, title=f"{run.net.name} on {data.name}")
    for name, count, *values in scores.rows:
        table.add_row(name, str(count), *(f"{value:.4f}" if count else "-" for value in values))
    Console().print(table)
    print(f"test accuracy {accuracy:.4f}, loss {loss:.4f} on {len(test):,} images")
    print("mean over classes: " + ", ".join(f"{name} {value:.4f}" for name, value in scores.macro.items()))
    if scores.top is not None:
        print(f"top-{TOP} accuracy {scores.top:.4f}")
    with optional_output("pictures", "evaluate", run.run_id) as folder:
        plots.confusion_matrix(test.t, guess, classes).savefig(folder / "confusion_matrix.png")
        mistakes = plots.worst_mistakes(test.x, test.t, probabilities, classes)
        mistakes.savefig(folder / "worst_mistakes.png")
    return accuracy


def renumbered(t: npt.NDArray[np.int64], classes: Sequence[str], others: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return labels t of classes as labels of others, which have the same names.

    >>> renumbered(np.array([0, 0, 2]), ("1", "10", "2"), ("1", "2", "10"))
    array([0, 0, 1])
    """
    return np.array([others.index(name) for name in classes])[t]
