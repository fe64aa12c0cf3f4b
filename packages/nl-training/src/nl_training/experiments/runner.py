"""Run an experiment: its function, its figures in a folder, and all of it in MLflow."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from importlib import import_module
from typing import TYPE_CHECKING

from omegaconf import OmegaConf

from nl_training.experiments.result import Figures
from nl_training.paths import output_folder
from nl_training.tracking.jobs import JOB, job_before, job_key

if TYPE_CHECKING:
    from pathlib import Path

    from omegaconf import DictConfig

    from nl_training.config.experiments import ExperimentConfig
    from nl_training.config.schema import Config
    from nl_training.tracking.run import MLflowTracker

Study = Callable[["Config", "DictConfig"], Figures]


def study(name: str) -> Study:
    """The function of a study: `run` of the module of that name."""
    found: Study = import_module(f"nl_training.experiments.{name}").run
    return found


def run_experiment(config: Config, cfg: DictConfig) -> Figures | None:
    """Run a config's experiment, log it, print its numbers; None where a resumed sweep has it already."""
    experiment = config.experiment
    assert experiment is not None
    print(f"{experiment.title}\n{experiment.source}\n")
    folder = output_folder("outputs", "experiments", experiment.name)
    tracker = _tracker(config, cfg, experiment)
    if config.sweep.resume is not None and tracker is not None:
        before = job_before(tracker.store, job_key(cfg, ""))
        if before is not None and before.info.status == "FINISHED":
            print(f"run {before.info.run_id} is finished")
            return None
    with tracker or nullcontext():
        found = study(experiment.study)(config, cfg)
        if tracker is not None:
            log(tracker, experiment, found)
    print("\n" + "\n".join(f"{name}: {value:.6g}" for name, value in found.numbers.items()))
    print(f"figures in {save(found, folder)}")
    if tracker is not None:
        print(tracker.hint())
    return found


def _tracker(config: Config, cfg: DictConfig, experiment: ExperimentConfig) -> MLflowTracker | None:
    if not config.tracking.enabled:
        return None
    from nl_training.tracking import MLflowTracker, Store

    store = Store.of(config.tracking)
    text = OmegaConf.to_yaml(cfg, resolve=True)
    tags = {JOB: job_key(cfg, "")}
    return MLflowTracker(store, asdict(config), f"experiment {experiment.name}", text, tags=tags)


def log(tracker: MLflowTracker, experiment: ExperimentConfig, found: Figures) -> None:
    """Log figures, numbers, the curves and certificates of the trainings, and the words for the run's page."""
    client, run_id = tracker.store.client, tracker.run_id
    note = f"**{experiment.title}** ({experiment.source})\n\n{experiment.see}"
    client.set_tag(run_id, "mlflow.note.content", note)
    client.set_tag(run_id, "experiment", experiment.name)
    client.log_dict(run_id, found.numbers, "numbers.json")
    tracker.on_metrics(0, {metric_name(name): value for name, value in found.numbers.items()})
    for trained in found.trained:
        label = metric_name(trained.label)
        for report in trained.result.history:
            tracker.on_metrics(report.step, {f"{label}/{name}": value for name, value in report.metrics.items()})
        if trained.outcome.certificate is not None:
            client.log_text(run_id, trained.outcome.certificate.text(), f"verification/{_file(label)}.json")
    for name, figure in found.figures.items():
        client.log_figure(run_id, figure, f"{name}.png")


def save(found: Figures, folder: Path) -> Path:
    """Write the figures as PNG into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in found.figures.items():
        figure.savefig(folder / f"{name}.png")
    return folder


def metric_name(label: str) -> str:
    """A label as MLflow takes it for the name of a metric.

    >>> metric_name("λ = 0.1")
    '_ _ 0.1'
    """
    return re.sub(r"[^A-Za-z0-9_\-. :/]", "_", label)


def _file(label: str) -> str:
    return re.sub(r"\W+", "_", label)
