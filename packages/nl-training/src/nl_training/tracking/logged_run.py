"""Loading logged runs: config, network with its best weights, classes and normalization."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from nl_models import Network, build
from nl_nodes import Device, UserError
from nl_training.config.plugins import load_plugins
from nl_training.data import Normalization, PixelFormat
from nl_training.tracking.address import given_experiment_name
from nl_training.tracking.artifacts import local_path, package_hint
from nl_training.tracking.process import PROCESS
from nl_training.tracking.store import Store

if TYPE_CHECKING:
    from mlflow.entities import Run

    from nl_training.config.schema import TrackingConfig


@dataclass(frozen=True)
class LoggedRun:
    """A run as it was logged.

    Attributes:
        run_id: its ID.
        config: its whole config.
        net: its network with the best weights.
        classes: the names of its classes.
        normalization: the normalization of its inputs.
        pixels: the format of its raw images; None in runs that did not record it.
        digest: the digest of its data; "" in runs that did not record it.
    """

    run_id: str
    config: DictConfig
    net: Network
    classes: tuple[str, ...]
    normalization: Normalization
    pixels: PixelFormat | None = None
    digest: str = ""


def open_run(run_id: str, tracking: TrackingConfig, device: Device | None = None) -> LoggedRun:
    """Load a run.

    Args:
        run_id: its ID, or `latest` for the newest finished training: of the experiment that the config or the
            environment gives, else of all experiments.
        tracking: the config of the store and the experiment.
        device: the device of its network.

    Raises:
        UserError: if there is no such run, or it has no weights.
    """
    store = Store.of(tracking, write=False)
    name = given_experiment_name(tracking.experiment_name)
    run = _latest(store, name) if run_id == "latest" else _existing(store, run_id, name)
    with TemporaryDirectory() as folder:
        config = OmegaConf.load(_artifact(store, run, "config.yaml", folder))
        assert isinstance(config, DictConfig)
        load_plugins(config.get("imports", ()))  # of older runs none
        spec: dict[str, Any] = json.loads(_artifact(store, run, "weights/network.json", folder).read_text())
        net = build(**spec["network"], device=device)
        net.load(_artifact(store, run, "weights/best.safetensors", folder))
    normalization = Normalization(tuple(spec["mean"]), tuple(spec["std"]))
    pixels = PixelFormat.from_json(spec["pixels"]) if spec.get("pixels") else None
    digest = run.data.tags.get("dataset.digest", "")
    return LoggedRun(str(run.info.run_id), config, net, tuple(spec["classes"]), normalization, pixels, digest)


def _existing(store: Store, run_id: str, experiment_name: str | None) -> Run:
    from mlflow.exceptions import MlflowException

    try:
        run = store.client.get_run(run_id)
    except MlflowException:
        raise UserError(f"run={run_id} is not in {store.uri}: take an ID from the MLflow UI, or run=latest") from None
    if experiment_name is not None and run.info.experiment_id != store.experiment_id:
        own = store.client.get_experiment(run.info.experiment_id).name
        raise UserError(f"run={run_id} is in the experiment {own!r}, not in {experiment_name!r}: leave that out")
    return run


def _latest(store: Store, experiment_name: str | None) -> Run:
    finished = f"attributes.status = 'FINISHED' AND tags.`{PROCESS}` LIKE '%' AND tags.model LIKE '%'"
    order = ["attributes.start_time DESC"]
    experiments = store.experiments(experiment_name, "run=latest")
    runs = store.client.search_runs(experiments, finished, max_results=1, order_by=order)
    if not runs:
        place = store.uri if experiment_name is None else f"the experiment {experiment_name!r} of {store.uri}"
        raise UserError(f"run=latest: no training in {place} has finished yet: run nl train first")
    return runs[0]


def _artifact(store: Store, run: Run, name: str, folder: str) -> Path:
    try:
        return Path(store.client.download_artifacts(run.info.run_id, name, folder))
    except Exception as error:  # each kind of artifact store raises its own
        where = run.info.artifact_uri
        if isinstance(error, ImportError):
            raise UserError(f"reading {where} {package_hint(error.name)}") from error
        why = "its artifacts are not there" if run.info.status == "FINISHED" else "it did not finish"
        place = local_path(where) or where
        raise UserError(f"run {run.info.run_id} has no {name} in {place}: {why}; choose another run") from None
