"""The trained network as an MLflow model from images to probabilities."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nl_training.tracking.provenance import pinned

if TYPE_CHECKING:
    from mlflow.models import Model

    from nl_training.data import Dataset
    from nl_training.tracking.store import Store
    from nl_training.training.callbacks import TrainingState

CODE = ("nl_nodes", "nl_layers", "nl_models")


def softmax(logits: Any) -> Any:
    """Probabilities (N, K) of logits (N, K), on the host."""
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def describe(trainer: TrainingState) -> dict[str, Any]:
    """Return what rebuilds the network and its inputs: arguments of `build`, classes, normalization, pixel format."""
    normalization, pixels = trainer.data.normalization, trainer.data.pixels
    return {
        "network": trainer.net.spec,
        "classes": list(trainer.data.classes),
        "mean": list(normalization.mean),
        "std": list(normalization.std),
        "pixels": pixels and asdict(pixels),
    }


def log_model(store: Store, run_id: str, folder: Path, example: Any, step: int) -> str:
    """Log the network with its best weights, so that `mlflow models serve --env-manager local` can serve it.

    Not by `mlflow.pyfunc.log_model`: it uses global state, ends the run and copies the run's first metrics to the model
    instead of the last.

    Args:
        store: the store.
        run_id: the ID of the run.
        folder: the folder with `best.safetensors` and `network.json`.
        example: an image before normalization, (1, C, H, W) float32.
        step: the training's last step.

    Returns:
        The model's ID, to be logged with metrics.
    """
    from mlflow.entities import LoggedModelOutput

    client = store.client
    model_id = _finished_model(store, run_id) or _new_model(store, run_id, folder, example)
    outputs = client.get_run(run_id).outputs
    if model_id not in {output.model_id for output in (outputs.model_outputs if outputs else ())}:
        client.log_outputs(run_id, [LoggedModelOutput(model_id, step=step)])
    return model_id


def _finished_model(store: Store, run_id: str) -> str | None:
    """Return the ID of the model that a run has if it was resumed at its end; delete incomplete models."""
    from mlflow.entities import LoggedModelStatus

    found = None
    for model in store.client.search_logged_models([store.experiment_id], f"source_run_id = '{run_id}'"):
        if model.status == LoggedModelStatus.READY:
            found = str(model.model_id)
        else:
            store.client.delete_logged_model(model.model_id)
    return found


def _new_model(store: Store, run_id: str, folder: Path, example: Any) -> str:
    from mlflow.models import Model

    client = store.client
    model = client.create_logged_model(store.experiment_id, "model", source_run_id=run_id)
    try:
        identity = Model(model.artifact_location, run_id, model_uuid=model.model_id, model_id=model.model_id)
        _save(folder, example, identity)
        client.log_model_artifacts(model.model_id, str(folder / "model"))
        client.finalize_logged_model(model.model_id, "READY")
    except BaseException:
        client.finalize_logged_model(model.model_id, "FAILED")
        raise
    return str(model.model_id)


def _save(folder: Path, example: Any, identity: Model) -> None:
    """Write the model with this project's packages as code, so that serving needs no package index for them."""
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    with warnings.catch_warnings(action="ignore"):  # MLflow warns of its own type hints
        from mlflow.pyfunc import save_model

    classes = len(json.loads((folder / "network.json").read_text())["classes"])
    images = TensorSpec(np.dtype(np.float32), (-1, *example.shape[1:]), "pixels")
    probabilities = TensorSpec(np.dtype(np.float32), (-1, classes))
    save_model(
        path=str(folder / "model"),
        mlflow_model=identity,
        python_model=str(Path(__file__).with_name("served.py")),
        artifacts={"weights": str(folder / "best.safetensors"), "network": str(folder / "network.json")},
        code_paths=[str(Path(str(import_module(name).__file__)).parent) for name in CODE],
        pip_requirements=pinned("numpy", "safetensors", "threadpoolctl", "mlflow"),
        signature=ModelSignature(inputs=Schema([images]), outputs=Schema([probabilities])),
        input_example={"pixels": example},
    )


def pixels(data: Dataset) -> Any:
    """Return the first test image before normalization, (1, C, H, W) float32."""
    mean, std = (np.reshape(value, (1, -1, 1, 1)) for value in (data.normalization.mean, data.normalization.std))
    return (data.test.x[:1] * std + mean).round(3).astype(np.float32)
