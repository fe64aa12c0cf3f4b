"""The trained network as an MLflow model: images in, probabilities out."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nl_training.paths import ROOT
from nl_training.tracking.provenance import pinned

if TYPE_CHECKING:
    from nl_training.tracking.store import Store
    from nl_training.trainer import Trainer

CODE = ("nl-nodes", "nl-layers", "nl-models")


def softmax(logits: Any) -> Any:
    """Probabilities (N, K) of logits (N, K), on the host."""
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def describe(trainer: Trainer) -> dict[str, Any]:
    """What makes the network and its inputs again: `nl_models.build`'s arguments, class names, normalisation."""
    scaling = trainer.data.normalization
    return {
        "network": trainer.net.spec,
        "classes": list(trainer.data.classes),
        "mean": list(scaling.mean),
        "std": list(scaling.std),
    }


def log_model(store: Store, run_id: str, trainer: Trainer, folder: Path, metrics: Mapping[str, float]) -> None:
    """Log the network with its best weights, so that `mlflow models serve --env-manager local` can serve it.

    The model carries this project's packages as code, so that serving asks no index for them.

    Args:
        store: where.
        run_id: the run that it belongs to.
        trainer: what was trained.
        folder: holds `best.safetensors` and `network.json`.
        metrics: the figures to show beside it.
    """
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    data = trainer.data
    pixels = TensorSpec(np.dtype(np.float32), (-1, *data.input_shape), "pixels")
    probabilities = TensorSpec(np.dtype(np.float32), (-1, len(data.classes)))
    example = np.zeros((1, *data.input_shape), dtype=np.float32)
    logging.getLogger("mlflow.models.model").setLevel(logging.ERROR)
    mlflow.set_tracking_uri(store.uri)
    mlflow.set_registry_uri(store.uri)
    with mlflow.start_run(run_id=run_id), warnings.catch_warnings(record=True):
        # Recorded and dropped: MLflow asks for type hints in `predict`, but the signature says more than they could.
        info = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(Path(__file__).with_name("served.py")),
            artifacts={"weights": str(folder / "best.safetensors"), "network": str(folder / "network.json")},
            code_paths=[str(ROOT / "packages" / name / "src" / name.replace("-", "_")) for name in CODE],
            pip_requirements=pinned("numpy", "safetensors", "threadpoolctl", "mlflow"),
            signature=ModelSignature(inputs=Schema([pixels]), outputs=Schema([probabilities])),
            input_example={"pixels": example},
        )
        # The model's page shows the run's figures of that moment; these are the ones that count.
        mlflow.log_metrics(dict(metrics), step=trainer.step, model_id=info.model_id)
