"""The export command: a logged run's network as an ONNX file, stored with the run."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from nl_models.onnx import save_onnx
from nl_nodes import UserError
from nl_training.config.run_command import run_command
from nl_training.paths import output_folder
from nl_training.tracking.logged_run import open_run
from nl_training.tracking.store import Store

if TYPE_CHECKING:
    from nl_training.config.schema import Config

HELP = """Writes a logged run's network with its best weights as an ONNX model, for onnxruntime and others.

  nl export run=latest

The model's input is raw pixels in the range of the run's data, which its metadata contains. Batch norm and dropout are
in inference mode, and the batch size is free. The file is written to outputs/export and logged with the run as
export/model.onnx.
Needs the package onnx: python -m pip install -c constraints.txt onnx"""


def main() -> None:
    """Export the run of the command line."""

    def task(run_id: str, config: Config, words: list[str]) -> None:
        if words:
            raise UserError(f"{words[0]}: export takes only run=ID, tracking.uri and tracking.experiment_name")
        export(run_id, config)

    run_command(task, HELP, words=True)


def export(run_id: str, config: Config) -> None:
    """Write a run's network with its best weights to `outputs/export` and log it as the run's `export/model.onnx`.

    The model's input is raw pixels in the range of the run's data; normalization is built in. The pixel format and the
    class names are stored as JSON in the model's metadata.
    """
    run = open_run(run_id, config.tracking)
    path = output_folder("outputs", "export", run.run_id) / "model.onnx"
    metadata = {
        "input": "raw pixels; mean and standard deviation are built in",
        "pixels": run.pixels and asdict(run.pixels),
        "classes": list(run.classes),
    }
    notes = {name: json.dumps(value) for name, value in metadata.items()}
    save_onnx(run.net, path, notes, (run.normalization.mean, run.normalization.std))
    store = Store.of(config.tracking, write=False)
    try:
        store.client.log_artifact(run.run_id, str(path), "export")
    except Exception as error:  # each kind of artifact store raises its own
        raise UserError(f"{path} could not be logged to run {run.run_id}: {str(error).splitlines()[0]}") from None
    print(repr(run.net))
    print(f"onnx   {path} ({path.stat().st_size / 1e6:.1f} MB)")
    print(f"logged export/model.onnx of run {run.run_id}")
