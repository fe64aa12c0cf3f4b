"""The trained network as an MLflow model: images in, probabilities out."""

from __future__ import annotations

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
    from nl_training.training.trainer import Trainer

CODE = ("nl_nodes", "nl_layers", "nl_models")


def softmax(logits: Any) -> Any:
    """Probabilities (N, K) of logits (N, K), on the host."""
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def describe(trainer: Trainer) -> dict[str, Any]:
    """What makes the network and its inputs again: `nl_models.build`'s arguments, classes, normalisation, pixels."""
    scaling, pixels = trainer.data.normalization, trainer.data.pixels
    return {
        "network": trainer.net.spec,
        "classes": list(trainer.data.classes),
        "mean": list(scaling.mean),
        "std": list(scaling.std),
        "pixels": pixels and asdict(pixels),
    }


def log_model(store: Store, run_id: str, trainer: Trainer, folder: Path) -> str:
    """Log the network with its best weights, so that `mlflow models serve --env-manager local` can serve it.

    `mlflow.pyfunc.log_model` does nearly this, but through global state, and it ends the run and copies the run's first
    metrics to the model where the last are wanted.

    Args:
        store: where.
        run_id: the run that it belongs to.
        trainer: what was trained.
        folder: holds `best.safetensors` and `network.json`.

    Returns:
        The model's ID, for metrics to be logged with.
    """
    from mlflow.entities import LoggedModelOutput

    client = store.client
    model_id = _whole_model(store, run_id) or _new_model(store, run_id, trainer, folder)
    outputs = client.get_run(run_id).outputs
    if model_id not in {output.model_id for output in (outputs.model_outputs if outputs else ())}:
        client.log_outputs(run_id, [LoggedModelOutput(model_id, step=trainer.step)])
    return model_id


def _whole_model(store: Store, run_id: str) -> str | None:
    """The model that a run has already, if it was resumed at its end; one that was not finished is taken away."""
    from mlflow.entities import LoggedModelStatus

    found = None
    for model in store.client.search_logged_models([store.experiment_id], f"source_run_id = '{run_id}'"):
        if model.status == LoggedModelStatus.READY:
            found = str(model.model_id)
        else:
            store.client.delete_logged_model(model.model_id)
    return found


def _new_model(store: Store, run_id: str, trainer: Trainer, folder: Path) -> str:
    from mlflow.models import Model

    client = store.client
    model = client.create_logged_model(store.experiment_id, "model", source_run_id=run_id)
    try:
        identity = Model(model.artifact_location, run_id, model_uuid=model.model_id, model_id=model.model_id)
        _save(folder, trainer, identity)
        client.log_model_artifacts(model.model_id, str(folder / "model"))
        client.finalize_logged_model(model.model_id, "READY")
    except BaseException:
        client.finalize_logged_model(model.model_id, "FAILED")
        raise
    return str(model.model_id)


def _save(folder: Path, trainer: Trainer, identity: Model) -> None:
    """Write the model; it carries this project's packages as code, so that serving asks no index for them."""
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    data = trainer.data
    pixels = TensorSpec(np.dtype(np.float32), (-1, *data.input_shape), "pixels")
    probabilities = TensorSpec(np.dtype(np.float32), (-1, len(data.classes)))
    with warnings.catch_warnings(record=True):
        # Recorded and dropped: MLflow asks for type hints in `predict`, but the signature says more than they could.
        warnings.simplefilter("ignore")
        from mlflow.pyfunc import save_model

        save_model(
            path=str(folder / "model"),
            mlflow_model=identity,
            python_model=str(Path(__file__).with_name("served.py")),
            artifacts={"weights": str(folder / "best.safetensors"), "network": str(folder / "network.json")},
            code_paths=[str(Path(str(import_module(name).__file__)).parent) for name in CODE],
            pip_requirements=pinned("numpy", "safetensors", "threadpoolctl", "mlflow"),
            signature=ModelSignature(inputs=Schema([pixels]), outputs=Schema([probabilities])),
            input_example={"pixels": _pixels(data)},
        )


def _pixels(data: Dataset) -> Any:
    """The first test image as it was before normalisation, (1, C, H, W) float32."""
    mean, std = (np.reshape(value, (1, -1, 1, 1)) for value in (data.normalization.mean, data.normalization.std))
    return (data.test.x[:1] * std + mean).round(3).astype(np.float32)
