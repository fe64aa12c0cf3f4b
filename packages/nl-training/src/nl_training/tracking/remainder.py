"""What is made from the results of a finished run: its pictures and its model.

They take longer than a small training, so the jobs of a sweep that run one after the other leave them to its end. Until
then their results are in a folder, so that a killed sweep makes them when it is resumed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nl_models import load_state, save_state
from nl_nodes.verify import load_certificate
from nl_training.paths import output_folder, output_root
from nl_training.tracking.model import describe, log_model, pixels
from nl_training.tracking.scores import TOP
from nl_training.training.callbacks import EpochReport
from nl_training.training.progress_bar import RunsBar
from nl_training.viz import plots

if TYPE_CHECKING:
    from mlflow.entities import Run

    from nl_nodes.verify import Certificate
    from nl_training.tracking.store import Store
    from nl_training.training.callbacks import Result, TrainingState

FOLDER = ("outputs", "unfinished")  # with a folder for each run whose pictures or model are still to be made
LEFT, FACTS, ARRAYS, CERTIFICATE = "left.json", "results.json", "results.safetensors", "certificate.json"
FINAL = (
    "final/test_acc", "final/test_loss", "final/precision", "final/recall", "final/f1", f"final/top{TOP}_acc",
    "seconds", "steps_to_target", "seconds_to_target",
)  # fmt: skip


def write_results(
    folder: Path,
    trainer: TrainingState,
    result: Result,
    probabilities: Any,
    name: str,
    steps: Sequence[tuple[int, float, float]],
) -> None:
    """Write what pictures and model are made from.

    Args:
        folder: where to.
        trainer: the finished training.
        result: its result.
        probabilities: those of the test images (N, classes) by the best weights.
        name: the run's name.
        steps: (step, loss, accuracy) of each training step.
    """
    data = trainer.data
    save_state(trainer.best_state, folder / "best.safetensors")
    (folder / "network.json").write_text(json.dumps(describe(trainer), indent=1))
    worst = plots.confident_mistakes(data.test.t, probabilities)
    arrays = {
        "steps": np.array(steps, np.float64).reshape(-1, 3),
        "probabilities": probabilities,
        "labels": data.test.t,
        "worst": data.test.x[worst],
        "example": pixels(data),
    }
    save_state(arrays, folder / ARRAYS)
    title = f"{name}: test accuracy {result.test_accuracy:.4f} (epoch {result.best_epoch})"
    history = [asdict(report) for report in result.history]
    facts = {"name": name, "title": title, "step": trainer.step, "history": history}
    (folder / FACTS).write_text(json.dumps(facts))


def make(store: Store, run_id: str, folder: Path, parts: Collection[str]) -> None:
    """Log the `parts` of a run, "pictures" and "model", from the results in `folder`."""
    facts, arrays = json.loads((folder / FACTS).read_text()), load_state(folder / ARRAYS)
    if "pictures" in parts:
        _log_pictures(store, run_id, folder, facts, arrays)
    if "model" in parts:
        _link_metrics(store, run_id, log_model(store, run_id, folder, arrays["example"], facts["step"]))


def postpone(run_id: str, folder: Path, parts: Collection[str], certificate: Certificate | None) -> None:
    """Keep the results in `folder` until `make_postponed` makes these parts of the run."""
    if certificate is not None:
        (folder / CERTIFICATE).write_text(certificate.text())
    kept = output_folder(*FOLDER, run_id)
    shutil.copytree(folder, kept, dirs_exist_ok=True)
    (kept / LEFT).write_text(json.dumps(list(parts)))  # last: it says that the rest is there


def make_postponed(store: Store, runs: Sequence[Run], note: str = "") -> list[str]:
    """Make what these runs have left to the end of their sweep; return a line for each run for which it failed.

    `note` is printed with the announcement.
    """
    left = {str(run.info.run_id): output_root().joinpath(*FOLDER, run.info.run_id) for run in runs}
    left = {run_id: folder for run_id, folder in left.items() if (folder / LEFT).exists()}
    failures = []
    with RunsBar("pictures and models", len(left), note) as bar:
        for run_id, folder in left.items():
            try:
                make(store, run_id, folder, json.loads((folder / LEFT).read_text()))
                shutil.rmtree(folder)
            except Exception as error:  # one run's failure must not cost the others theirs
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                failures.append(f"the pictures and the model of run {run_id} could not be made: {reason}")
            bar.advance()
    return failures


def _log_pictures(store: Store, run_id: str, folder: Path, facts: dict[str, Any], arrays: dict[str, Any]) -> None:
    """Log learning curves, and confusion matrix and worst mistakes of the best weights."""
    classes = json.loads((folder / "network.json").read_text())["classes"]
    history = [EpochReport(**report) for report in facts["history"]]
    labels, probabilities = arrays["labels"], arrays["probabilities"]
    guess = np.argmax(probabilities, axis=1)
    figures = {
        "learning_curves.png": plots.learning_curves(arrays["steps"].tolist(), history, facts["title"]),
        "confusion_matrix.png": plots.confusion_matrix(labels, guess, classes),
        "worst_mistakes.png": plots.mistakes(arrays["worst"], labels, probabilities, classes),
    }
    if (path := folder / CERTIFICATE).exists():
        fields = json.loads(path.read_text())
        certificate = load_certificate(path, fields["fingerprint"], fields["code"])
        figures["verification/residuals.png"] = plots.residuals(certificate, facts["name"])
    for name, figure in figures.items():
        store.client.log_figure(run_id, figure, name)


def _link_metrics(store: Store, run_id: str, model_id: str) -> None:
    """Log a run's final metrics as the model's too; the run has these points already and ignores them."""
    from mlflow.entities import Metric

    points = [point for key in FINAL for point in store.client.get_metric_history(run_id, key)]
    metrics = [Metric(p.key, p.value, p.timestamp, p.step, model_id) for p in points]
    store.client.log_batch(run_id, metrics=metrics)
