"""Run an experiment's study, save its figures in a folder, and log the result to MLflow."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import nullcontext
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

from omegaconf import OmegaConf

from nl_training.config.resolve import named
from nl_training.experiments import studies
from nl_training.experiments.result import Figures
from nl_training.paths import output_folder
from nl_training.tracking.jobs import JOB, job_key, previous_run

if TYPE_CHECKING:
    from pathlib import Path

    from omegaconf import DictConfig

    from nl_training.config.experiments import ExperimentConfig
    from nl_training.config.schema import Config
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
            log(tracker, experiment, result)
    print("\n" + "\n".join(f"{name}: {value:.6g}" for name, value in result.numbers.items()))
    print(f"figures in {save(result, folder)}")
    if tracker is not None:
        print(tracker.hint())
    return result


def _tracker(config: Config, cfg: DictConfig, experiment: ExperimentConfig) -> MLflowTracker | None:
    if not config.tracking.enabled:
        return None
    from nl_training.tracking import MLflowTracker, Store

    store = Store.of(config.tracking)
    text = OmegaConf.to_yaml(cfg, resolve=True)
    tags = {JOB: job_key(cfg, "")}
    return MLflowTracker(store, named(config, cfg), f"experiment {experiment.name}", text, tags=tags)


def log(tracker: MLflowTracker, experiment: ExperimentConfig, result: Figures) -> None:
    """Log figures, numbers, a description, and the curves and certificates of the trainings."""
    client, run_id = tracker.store.client, tracker.run_id
    note = f"**{experiment.title}** ({experiment.source})\n\n{experiment.see}"
    client.set_tag(run_id, "mlflow.note.content", note)
    client.set_tag(run_id, "experiment", experiment.name)
    client.log_dict(run_id, result.numbers, "numbers.json")
    tracker.on_metrics(0, {metric_name(name): value for name, value in result.numbers.items()})
    for trained in result.trained:
        label = metric_name(trained.label)
        for report in trained.result.history:
            tracker.on_metrics(report.step, {f"{label}/{name}": value for name, value in report.metrics.items()})
        if trained.outcome.certificate is not None:
            client.log_text(run_id, trained.outcome.certificate.text(), f"verification/{_file(label)}.json")
    for name, figure in result.figures.items():
        client.log_figure(run_id, figure, f"{name}.png")


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


def _file(label: str) -> str:
    return re.sub(r"\W+", "_", label)
