"""Which run `resume` means, whether it may go on, and the config with which it does."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from nl_nodes import UserError
from nl_training.paths import output_root
from nl_training.tracking import Store, view_hint
from nl_training.tracking.address import EXPERIMENT_NAME
from nl_training.tracking.jobs import job_before
from nl_training.tracking.process import PROCESS, is_alive, is_here
from nl_training.tracking.run import CONFIG

if TYPE_CHECKING:
    from mlflow.entities import Run

BESIDE = ("trainer.epochs", "trainer.max_steps", "device")
PLACE = ("tracking.uri=", "tracking.experiment_name=")  # overrides that say where the run is, and change nothing of it


@dataclass(frozen=True)
class ResumableRun:
    """A run that is to go on.

    Attributes:
        run: as the store has it.
        store: where it is, with its experiment.
        given: what stands on the command line beside `resume`.
    """

    run: Run
    store: Store
    given: tuple[str, ...]

    @property
    def run_id(self) -> str:
        """The run's ID."""
        return str(self.run.info.run_id)

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return bool(self.run.info.status == "FINISHED")

    def config(self, composed: DictConfig) -> DictConfig:
        """The run's own config, with what was given on the command line from the composed one."""
        cfg = OmegaConf.create(self.run.data.tags[CONFIG])
        assert isinstance(cfg, DictConfig)
        for text in self.given:
            key = text.partition("=")[0]
            OmegaConf.update(cfg, key, OmegaConf.select(composed, key), merge=False)
        return cfg

    def told(self) -> str:
        """The result of a finished run."""
        lines, metrics = [f"run {self.run_id} is finished"], self.run.data.metrics
        if self.given:
            lines[0] += f": {' and '.join(self.given)} would change nothing"
        if "final/test_acc" in metrics:
            chosen = f"best weights, of epoch {metrics['best/epoch']:.0f}"
            lines += [
                f"test accuracy {metrics['final/test_acc']:.4f} ({chosen}), loss {metrics['final/test_loss']:.4f}"
            ]
        return "\n".join([*lines, view_hint(self.store.uri, self.store.experiment_id, self.run_id)])


def find(store: Store, name: str, overrides: Sequence[str]) -> ResumableRun:
    """The run that `resume=name` means.

    Args:
        store: where it is looked for: in the experiment that is named, else in all.
        name: a run's ID, or "latest": the newest that did not finish and whose process is gone.
        overrides: the command line, `resume` among them.

    Raises:
        UserError: when there is no such run, it cannot go on here, or the command line holds what cannot be changed.
    """
    given = tuple(text for text in overrides if not text.startswith(("resume=", *PLACE)))
    for text in given:
        key = text.partition("=")[0]
        if key not in BESIDE and not key.startswith("device."):
            raise UserError(
                f"{text}: resume takes the whole config from the run; only {', '.join(BESIDE)} may stand beside it"
            )
    named = EXPERIMENT_NAME in os.environ or any(text.startswith(PLACE[1]) for text in overrides)
    run = _latest(store, named) if name == "latest" else _by_id(store, name, named)
    past = ResumableRun(run, replace(store, experiment_id=run.info.experiment_id), given)
    if not past.finished:
        _check(past)
    return past


def of_sweep(store: Store, key: str) -> ResumableRun | None:
    """The run of a job that its sweep has begun already, None where there is none.

    Raises:
        UserError: when it cannot go on here.
    """
    run = job_before(store, key)
    if run is None:
        return None
    past = ResumableRun(run, store, ())
    if not past.finished:
        _check(past)
    return past


def checkpoint_folder(run_id: str) -> Path:
    """Where a run's checkpoints lie."""
    return output_root() / "outputs" / "checkpoints" / run_id


def _by_id(store: Store, run_id: str, named: bool) -> Run:
    from mlflow.exceptions import MlflowException

    try:
        run = store.client.get_run(run_id)
    except MlflowException:
        run = None
    if run is None or run.info.lifecycle_stage == "deleted":
        raise UserError(f"resume={run_id} is not in {store.uri}: take an ID from the MLflow UI, or resume=latest")
    if named and run.info.experiment_id != store.experiment_id:
        own = store.client.get_experiment(run.info.experiment_id).name
        raise UserError(f"resume={run_id} is in the experiment {own!r}, not in the one that is named: leave that out")
    return run


def _latest(store: Store, named: bool) -> Run:
    if named:
        experiments = [store.experiment_id] if store.experiment_id else []
    else:
        experiments = [experiment.experiment_id for experiment in store.client.search_experiments()]
    ended, order = "attributes.status != 'FINISHED'", ["attributes.start_time DESC"]
    for run in store.client.search_runs(experiments, ended, order_by=order) if experiments else ():
        tags = run.data.tags
        if CONFIG in tags and not is_alive(tags[PROCESS]) and (run.info.status != "RUNNING" or is_here(tags[PROCESS])):
            return run
    raise UserError(f"resume=latest: {store.uri} has no run that did not finish and whose process is gone")


def _check(past: ResumableRun) -> None:
    """Refuse a run that cannot go on, or not here."""
    tags, run_id = past.run.data.tags, past.run_id
    if CONFIG not in tags:
        raise UserError(f"resume={run_id}: no training of scripts/train.py that can go on, but a sweep or another run")
    if is_alive(tags[PROCESS]):
        raise UserError(f"resume={run_id}: process {tags[PROCESS].split()[-2]} is training it; stop that first")
    folder = checkpoint_folder(run_id)
    if past.run.data.metrics and not is_here(tags[PROCESS]) and not folder.is_dir():
        machine = tags[PROCESS].rsplit(" ", 2)[0]
        raise UserError(f"resume={run_id}: its checkpoints are on the machine {machine}; bring them to {folder}")
