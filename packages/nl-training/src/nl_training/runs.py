"""Logged runs, opened again: their config, their network with its best weights, their classes and scaling."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from nl_models import Network, build
from nl_nodes import Device, UserError
from nl_training.data import Normalization, PixelFormat
from nl_training.tracking.store import EXPERIMENT, Store, resolve_uri

if TYPE_CHECKING:
    from mlflow.entities import Run


@dataclass(frozen=True)
class LoggedRun:
    """A run as it was logged.

    Attributes:
        run_id: its ID.
        config: its whole config.
        net: its network with the best weights.
        classes: the names of its classes.
        normalization: how its pixels become inputs.
        pixels: how its raw images look; None in runs that did not record it.
    """

    run_id: str
    config: DictConfig
    net: Network
    classes: tuple[str, ...]
    normalization: Normalization
    pixels: PixelFormat | None = None


def open_run(run_id: str, device: Device | None = None) -> LoggedRun:
    """Open a run by ID; `latest` is the newest that finished.

    Raises:
        UserError: when there is no such run, or it has no weights.
    """
    store = Store.open(resolve_uri(), EXPERIMENT)
    run_id = _latest(store) if run_id == "latest" else _existing(store, run_id)
    with TemporaryDirectory() as folder:
        config = OmegaConf.load(_artifact(store, run_id, "config.yaml", folder))
        spec: dict[str, Any] = json.loads(_artifact(store, run_id, "weights/network.json", folder).read_text())
        net = build(**spec["network"], device=device)
        net.load(_artifact(store, run_id, "weights/best.safetensors", folder))
    assert isinstance(config, DictConfig)
    scaling = Normalization(tuple(spec["mean"]), tuple(spec["std"]))
    pixels = PixelFormat.from_json(spec["pixels"]) if spec.get("pixels") else None
    return LoggedRun(run_id, config, net, tuple(spec["classes"]), scaling, pixels)


def _existing(store: Store, run_id: str) -> str:
    from mlflow.exceptions import MlflowException

    try:
        return str(store.client.get_run(run_id).info.run_id)
    except MlflowException:
        raise UserError(f"run={run_id} is not in {store.uri}: take an ID from the MLflow UI, or run=latest") from None


def _latest(store: Store) -> str:
    ended = "attributes.status = 'FINISHED'"
    found: list[Run] = store.client.search_runs([store.experiment_id], ended, order_by=["attributes.start_time DESC"])
    trained = [run for run in found if "model" in run.data.tags]
    if not trained:
        raise UserError(f"run=latest: no run in {store.uri} has finished yet: run scripts/train.py first")
    return str(trained[0].info.run_id)


def _artifact(store: Store, run_id: str, name: str, folder: str) -> Path:
    try:
        return Path(store.client.download_artifacts(run_id, name, folder))
    except Exception:  # each kind of artifact store raises its own
        raise UserError(f"run {run_id} has no {name}: it did not finish; choose another run") from None
