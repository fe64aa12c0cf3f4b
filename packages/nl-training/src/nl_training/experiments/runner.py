"""Run an experiment's study, save its figures in a folder, and log the result to MLflow."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

from omegaconf import OmegaConf

from nl_training.config.resolve import named
from nl_training.experiments import studies
from nl_training.experiments.result import Figures
from nl_training.interrupts import status_of
from nl_training.paths import output_folder
from nl_training.tracking import parent_page, parent_run, provenance
from nl_training.tracking.jobs import JOB, job_key, previous_run
from nl_training.tracking.metrics import BATCH
from nl_training.tracking.naming import LONGEST, NOTE, paragraphs, run_name, table, user_tags
from nl_training.tracking.tracker import Tracker

if TYPE_CHECKING:
    from pathlib import Path

    from mlflow.entities import Metric
    from omegaconf import DictConfig

    from nl_training.config.experiments import ExperimentConfig
    from nl_training.config.schema import Config
    from nl_training.experiments.train import TrainedNetwork
    from nl_training.tracking import Store
    from nl_training.tracking.run import MLflowTracker

Study = Callable[["Config", "DictConfig"], Figures]


def study(name: str) -> Study:
    """Return the function of a study: `run` of its module, which is in `studies` or a plugin's."""
    ours = name in {found.name for found in iter_modules(studies.__path__)}
    function: Study = import_module(f"{studies.__name__}.{name}" if ours else name).run
    return function


def run_experiment(config: Config, cfg: DictConfig) -> Figures | None:
    """Run a config's experiment, log it and print its numbers; return None if a resumed sweep has finished it."""
    experiment = config.experiment
    assert experiment is not None
    print(f"{experiment.title}\n{experiment.source}\n")
    folder = output_folder("outputs", "experiments", experiment.name)
    tracker = _tracker(config, cfg, experiment)
    if config.sweep.resume is not None and tracker is not None:
        previous = previous_run(tracker.store, job_key(cfg, ""))
        if previous is not None and previous.info.status == "FINISHED":
            print(f"run {previous.info.run_id} is finished")
            return None
    with tracker or nullcontext():
        result = study(experiment.study)(config, cfg)
        if tracker is not None:
            log(tracker, result)
    print("\n" + "\n".join(f"{name}: {value:.6g}" for name, value in result.numbers.items()))
    print(f"figures in {save(result, folder)}")
    if tracker is not None:
        print(tracker.hint())
    return result


def _tracker(config: Config, cfg: DictConfig, experiment: ExperimentConfig) -> MLflowTracker | None:
    if not config.tracking.enabled:
        return None
    from nl_training.tracking import MLflowTracker, Store

    store = Store.of(config.tracking, config.experiment)
    text = OmegaConf.to_yaml(cfg, resolve=True)
    tags = {**user_tags(config), "experiment": experiment.name, JOB: job_key(cfg, "")}
    return MLflowTracker(store, named(config, cfg), run_name(config, cfg), text, tags=tags)


def log(tracker: MLflowTracker, result: Figures) -> None:
    """Log figures and numbers, and each training as a run nested under the experiment's.

    A run with nested ones has no metrics, which would be a curve or bar of its own in the charts beside theirs: its
    numbers are in its description.
    """
    client, run_id = tracker.store.client, tracker.run_id
    client.log_dict(run_id, result.numbers, "numbers.json")
    if result.trained:
        tags = {**provenance.tags(), "mlflow.parentRunId": run_id}
        for trained in result.trained:
            _log_training(tracker.store, tags, trained)
        numbers = table(["number", "value"], [[name, f"{value:.6g}"] for name, value in result.numbers.items()])
        note, runs = paragraphs(tracker.tags.get(NOTE), numbers), parent_run.children(tracker.store, run_id)
        parent_page.log(tracker.store, run_id, list(tracker.config), runs, note)
    else:
        tracker.on_metrics(0, {metric_name(name): value for name, value in result.numbers.items()})
    for name, figure in result.figures.items():
        client.log_figure(run_id, figure, f"{name}.png")


def _log_training(store: Store, tags: Mapping[str, str], trained: TrainedNetwork) -> None:
    """Log a finished training's config, curves and certificate as a run with these tags."""
    client, tags = store.client, {**tags, **trained.outcome.tags}
    run_id = client.create_run(store.experiment_id, tags=tags, run_name=trained.label[:LONGEST]).info.run_id
    try:
        provenance.log_params(client, run_id, trained.config)
        metrics = _metrics(trained)
        for start in range(0, len(metrics), BATCH):
            client.log_batch(run_id, metrics=metrics[start : start + BATCH])
        if trained.outcome.certificate is not None:
            client.log_text(run_id, trained.outcome.certificate.text(), "verification/certificate.json")
        client.set_terminated(run_id)
    except BaseException as error:
        with suppress(Exception):  # an error of the store must not hide this one
            client.set_terminated(run_id, status_of(error))
        raise


def _metrics(trained: TrainedNetwork) -> list[Metric]:
    """Return the metrics of a finished training: the loss of each step, those of the epochs, the best and the final."""
    from mlflow.entities import Metric

    points = _Points()
    for step, loss in enumerate(trained.losses, 1):
        points.add(step, {"train/loss": loss})
    for report in trained.result.history:
        points.on_epoch(report)
    points.on_result(trained.result)
    now = int(time.time() * 1000)
    return [Metric(key, value, now, step) for step, values in points.found for key, value in values.items()]


class _Points(Tracker):
    """Collects metrics with their steps."""

    def __init__(self) -> None:
        self.found: list[tuple[int, Mapping[str, float]]] = []

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        self.found.append((step, metrics))


def save(result: Figures, folder: Path) -> Path:
    """Write the figures as PNG files to a folder and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in result.figures.items():
        figure.savefig(folder / f"{name}.png")
    return folder


def metric_name(label: str) -> str:
    """Replace the characters of a label that MLflow does not allow in metric names.

    >>> metric_name("λ = 0.1")
    '_ _ 0.1'
    """
    return re.sub(r"[^A-Za-z0-9_\-. :/]", "_", label)
