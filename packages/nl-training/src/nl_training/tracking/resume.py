"""Resuming runs: which run `resume` names, whether it can be resumed, and with which config."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from nl_nodes import UserError
from nl_training.paths import output_root
from nl_training.tracking import Store, view_hint
from nl_training.tracking.jobs import previous_run
from nl_training.tracking.process import PROCESS, is_alive, is_here
from nl_training.tracking.run import CONFIG

if TYPE_CHECKING:
    from mlflow.entities import Run

CHANGEABLE = ("trainer.epochs", "trainer.max_steps", "trainer.max_seconds", "device")
LOCATION = ("tracking.uri=", "tracking.experiment_name=")  # overrides that locate the run without changing it


@dataclass(frozen=True)
class ResumableRun:
    """A run to resume.

    Attributes:
        run: the run as stored.
        store: its store and experiment.
        given: the overrides given with `resume` on the command line.
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
        """Whether the run is finished."""
        return bool(self.run.info.status == "FINISHED")

    def config(self, composed: DictConfig) -> DictConfig:
        """Return the run's own config, with the values of the given overrides from the composed one."""
        cfg = self._config.copy()
        for text in self.given:
            key = text.partition("=")[0]
            OmegaConf.update(cfg, key, OmegaConf.select(composed, key), merge=False)
        return cfg

    @cached_property
    def _config(self) -> DictConfig:
        """The config with which the run was started or resumed last; empty if it has none."""
        cfg = OmegaConf.create(self.store.text(self.run_id, CONFIG) or "")
        assert isinstance(cfg, DictConfig)
        return cfg

    @property
    def is_training(self) -> bool:
        """Whether it is a run of one training, rather than a sweep, a search or an experiment of several parts."""
        return bool(self._config) and OmegaConf.select(self._config, "experiment.study") in (None, "training")

    def result_text(self) -> str:
        """Return the result of a finished run as text."""
        lines, metrics = [f"run {self.run_id} is finished"], self.run.data.metrics
        if self.given:
            lines[0] += f": {' and '.join(self.given)} would change nothing"
        if "final/test_acc" in metrics:
            weights = f"best weights, of epoch {metrics['best/epoch']:.0f}"
            accuracy, loss = metrics["final/test_acc"], metrics["final/test_loss"]
            lines.append(f"test accuracy {accuracy:.4f} ({weights}), loss {loss:.4f}")
        return "\n".join([*lines, view_hint(self.store.uri, self.store.experiment_id, self.run_id)])


def find(store: Store, name: str, overrides: Sequence[str] = (), experiment_name: str | None = None) -> ResumableRun:
    """Return the run of `resume=name`.

    Args:
        store: the store to search.
        name: a run's ID, or "latest" for the newest unfinished training whose process is gone.
        overrides: the whole command line.
        experiment_name: the experiment that the config or the environment gives; None for all experiments.

    Raises:
        UserError: if there is no such run, it cannot be resumed here, or an override cannot be changed.
    """
    given = tuple(text for text in overrides if not text.startswith(("resume=", *LOCATION)))
    for text in given:
        key = text.partition("=")[0]
        if key not in CHANGEABLE and not key.startswith("device."):
            changeable = ", ".join(CHANGEABLE)
            raise UserError(f"{text}: resume takes the config from the run; only {changeable} can be changed")
    if name == "latest":
        return _latest(store, experiment_name, given)
    resumed = _resumable(store, _by_id(store, name, experiment_name), given)
    if not resumed.finished:
        _check(resumed)
    return resumed


def of_sweep(store: Store, key: str) -> ResumableRun | None:
    """Return the run of a job that its sweep has already started, or None.

    Raises:
        UserError: if it cannot be resumed here.
    """
    run = previous_run(store, key)
    if run is None:
        return None
    resumed = _resumable(store, run, ())
    if resumed.finished:
        return resumed
    _check(resumed)
    return replace(resumed, given=("trainer.max_seconds",))  # in which alone the configs may differ


def checkpoint_folder(run_id: str) -> Path:
    """Return the folder of a run's checkpoints."""
    return output_root() / "outputs" / "checkpoints" / run_id


def _resumable(store: Store, run: Run, given: tuple[str, ...]) -> ResumableRun:
    return ResumableRun(run, store.of_run(run), given)


def _by_id(store: Store, run_id: str, experiment_name: str | None) -> Run:
    run = store.run(run_id)
    if run is None:
        raise UserError(f"resume={run_id} is not in {store.uri}: take an ID from the MLflow UI, or resume=latest")
    store.refuse_other_experiment(run, experiment_name, f"resume={run_id}")
    return run


def _latest(store: Store, experiment_name: str | None, given: tuple[str, ...]) -> ResumableRun:
    unfinished = f"attributes.status != 'FINISHED' AND tags.`{PROCESS}` LIKE '%'"
    order = ["attributes.start_time DESC"]
    experiments = store.experiments(experiment_name, "resume=latest")
    for run in store.client.search_runs(experiments, unfinished, order_by=order):
        process, resumed = run.data.tags[PROCESS], _resumable(store, run, given)
        is_left = not is_alive(process) and (run.info.status != "RUNNING" or is_here(process))
        is_left = is_left and "search.trial" not in run.data.tags  # which its search resumes
        if is_left and resumed.is_training:
            _check(resumed)
            return resumed
    raise UserError(f"resume=latest: {store.uri} has no unfinished training whose process is gone")


def _check(resumed: ResumableRun) -> None:
    """Refuse a run that cannot be resumed on this machine."""
    tags, run_id = resumed.run.data.tags, resumed.run_id
    if PROCESS not in tags or not resumed.is_training:
        raise UserError(f"resume={run_id}: not a training of nl train, but a sweep or another kind of run")
    if is_alive(tags[PROCESS]):
        raise UserError(f"resume={run_id}: process {tags[PROCESS].split()[-2]} is training it; stop that first")
    folder = checkpoint_folder(run_id)
    if resumed.run.data.metrics and not is_here(tags[PROCESS]) and not folder.is_dir():
        machine = tags[PROCESS].rsplit(" ", 2)[0]
        raise UserError(f"resume={run_id}: its checkpoints are on the machine {machine}; copy them to {folder}")
