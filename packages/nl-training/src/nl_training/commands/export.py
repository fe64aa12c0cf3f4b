"""What export does and prints: a logged run's network as an ONNX file, kept with the run."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from nl_models.onnx import save_onnx
from nl_nodes import UserError
from nl_training.paths import output_folder
from nl_training.tracking.logged_run import open_run
from nl_training.tracking.store import Store

if TYPE_CHECKING:
    from nl_training.config.schema import Config


def export(run_id: str, config: Config) -> None:
    """Write a run's network with its best weights to `outputs/export` and log it as the run's `export/model.onnx`.

    The model takes raw pixels in the range of the run's data: their mean and standard deviation are built in. How these
    pixels look and the names of the classes are the model's metadata, as JSON.
    """
    run = open_run(run_id, config.tracking)
    path = output_folder("outputs", "export", run.run_id) / "model.onnx"
    scaling = run.normalization
    notes = {
        "input": "raw pixels; mean and standard deviation are built in",
        "pixels": run.pixels and asdict(run.pixels),
        "classes": list(run.classes),
    }
    save_onnx(run.net, path, {name: json.dumps(value) for name, value in notes.items()}, (scaling.mean, scaling.std))
    store = Store.of(config.tracking, write=False)
    try:
        store.client.log_artifact(run.run_id, str(path), "export")
    except Exception as error:  # each kind of artifact store raises its own
        raise UserError(f"{path} could not be logged to run {run.run_id}: {str(error).splitlines()[0]}") from None
    print(repr(run.net))
    print(f"onnx   {path} ({path.stat().st_size / 1e6:.1f} MB)")
    print(f"logged export/model.onnx of run {run.run_id}")
