"""The train command: one training or experiment from a checked config, logged as a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from math import inf
from typing import TYPE_CHECKING

from omegaconf import OmegaConf

from nl_nodes import UserError
from nl_training.config import build, cli
from nl_training.config.resolve import named, resolve
from nl_training.config.sweep_jobs import in_sweep
from nl_training.data import EpochBatches
from nl_training.tracking import resume_command
from nl_training.tracking.files import check_package, file_tracker
from nl_training.tracking.jobs import JOB, job_key
from nl_training.tracking.naming import run_name, user_tags
from nl_training.tracking.sweep_run import sweep_run
from nl_training.training.callbacks import Callback, Result, TimeLimit
from nl_training.training.checkpoint import Checkpoints
from nl_training.training.curvature import Sharpness
from nl_training.training.progress_bar import CertificateBar, ProgressBar, activity
from nl_training.training.snapshot import restore
from nl_training.verification import Outcome, Training, verify
from nl_training.verification.probe import Probe

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from nl_models import Network
    from nl_training.config.schema import Config
    from nl_training.data import Dataset
    from nl_training.experiments.result import Figures
    from nl_training.tracking.resume import ResumableRun
    from nl_training.tracking.run import MLflowTracker


def main() -> None:
    """Train and log one run, run one experiment, or a sweep of them."""
    cli.main(experiment, sweep_run)


def train(
    config: Config,
    cfg: DictConfig,
    extra_callbacks: Sequence[Callback] = (),
    tags: Mapping[str, str] | None = None,
    name: str | None = None,
) -> Result | None:
    """Train one run, log it and print its result.

    Return None if the run to resume is already finished, or the time limit is reached.

    Args:
        config: the checked config.
        cfg: the same config as Hydra composed it.
        extra_callbacks: callbacks besides those of the config.
        tags: additional tags of the run.
        name: the run's name; by default one made of the config and the overrides.

    Raises:
        UserError: when something the config names is missing; no run is left open.
    """
    # Everything that can fail on a wrong config is built before a run is opened.
    resumed = _resumed_run(config, cfg)
    if resumed is not None:
        if resumed.finished:
            print(resumed.result_text())
            return None
        cfg = resumed.config(cfg)
        config = resolve(cfg)
    refuse_ignored(config)
    device = build.device(config)
    with activity("loading the data"):
        data = build.dataset(config)
    net = build.network(config, data, device)
    if not in_sweep():
        print(f"{net!r} on {device!r}\n{data.name}: {len(data.train):,} images to train, {len(data.test):,} to test")
    epoch = EpochBatches.of(net, len(data.train), config.trainer.batch_size, config.trainer.accumulate)
    if epoch.note:
        print(epoch.note)
    with activity("opening the tracking store"):
        tracker = _tracker(config, cfg, data, tags or {}, name, resumed)
    outcome = _verified(config, net, build.training(config, cfg, data, epoch))
    try:
        result = _run(config, cfg, net, data, tracker, outcome, extra_callbacks)
    except (KeyboardInterrupt, SystemExit):
        if tracker is not None and tracker.run_id:
            print(f"stopped; {resume_command(tracker.store.uri, tracker.run_id)} continues it")
        raise
    except TimeLimit as limit:
        assert tracker is not None  # `refuse_ignored` refuses the limit otherwise
        continues = resume_command(tracker.store.uri, tracker.run_id)
        print(f"{limit}; {continues} trainer.max_seconds=SECONDS continues it")
        return None
    if not in_sweep():
        _print(config, result, tracker)
    return result


def experiment(config: Config, cfg: DictConfig) -> Result | Figures | None:
    """Run the study of the config's experiment, or train one network."""
    if config.experiment is None or config.experiment.study == "training":
        return train(config, cfg)
    from nl_training.experiments.runner import run_experiment

    refuse_ignored(config)
    _refuse_ignored_by_study(config, config.experiment.name)
    return run_experiment(config, cfg)


def _run(
    config: Config,
    cfg: DictConfig,
    net: Network,
    data: Dataset,
    tracker: MLflowTracker | None,
    outcome: Outcome,
    extra_callbacks: Sequence[Callback],
) -> Result:
    """Train within an open run, from its newest checkpoint if there is one."""
    probe = None if config.verify.probe_every is None else Probe(config.verify.probe_every, config.seed)
    every = config.trainer.curvature_every
    sharpness = None if every is None else Sharpness(every, config.seed)
    with ExitStack() as stack:
        checkpoints = None
        if tracker is not None:
            if tracker.run_id:  # before the run is changed: another process may be training it
                checkpoints = stack.enter_context(_checkpoints(config, tracker.run_id))
            stack.enter_context(tracker)
            checkpoints = checkpoints or stack.enter_context(_checkpoints(config, tracker.run_id))
            tracker.log_verification(outcome)
        run_id = tracker.run_id if tracker is not None else ""
        files = file_tracker(config.tracking, OmegaConf.to_yaml(cfg, resolve=True), run_id)
        if files is not None:
            stack.enter_context(files)
        bar = ProgressBar(lasting=not in_sweep())
        stack.callback(bar.close)
        callbacks: list[Callback] = [
            c for c in (bar, tracker, files, probe, sharpness, *extra_callbacks) if c is not None
        ]
        trainer = build.trainer(config, cfg, net, data, callbacks, checkpoints)
        if checkpoints is not None and tracker is not None:
            newest = checkpoints.newest()
            if newest is not None:
                restore(trainer, newest)
            if not in_sweep():
                print(f"run {tracker.run_id}, step {trainer.step} of {trainer.total_steps}", flush=True)
        result = trainer.run()
        if files is not None and not in_sweep():
            print(files.hint())
        return result


def _resumed_run(config: Config, cfg: DictConfig) -> ResumableRun | None:
    """Return the run of `resume`, or this job's run in a resumed sweep; None for a new run."""
    from hydra.core.hydra_config import HydraConfig

    from nl_training.tracking import Store
    from nl_training.tracking.address import given_experiment_name
    from nl_training.tracking.resume import find, of_sweep

    if config.resume is None and config.sweep.resume is None:
        return None
    hydra = HydraConfig.get()
    multirun = hydra.mode is not None and hydra.mode.name == "MULTIRUN"
    if config.resume is None:
        if not multirun:
            raise UserError("sweep.resume continues a sweep: give -m and the sweep's command line")
        return of_sweep(Store.of(config.tracking, config.experiment), job_key(cfg, build.dataset(config).digest))
    if multirun:
        raise UserError("resume continues a single run: leave -m out")
    given = given_experiment_name(config.tracking.experiment_name)
    return find(Store.of(config.tracking, write=False), str(config.resume), list(hydra.overrides.task), given)


def _checkpoints(config: Config, run_id: str) -> Checkpoints:
    from nl_training.tracking.resume import checkpoint_folder

    t = config.trainer
    return Checkpoints(checkpoint_folder(run_id), t.checkpoint_every_steps, t.checkpoint_every_seconds)


def _verified(config: Config, net: Network, training: Training) -> Outcome:
    """Verify the gradients in the config's mode and print the outcome."""
    with CertificateBar() as bar:
        outcome = verify(net, config.verify.mode, config.verify.max_seconds, bar.advance, training)
    if not (in_sweep() and outcome.status == "verified"):
        for line in outcome.lines():
            print(line)
    return outcome


def refuse_ignored(config: Config) -> None:
    """Refuse settings that this command would ignore."""
    t = config.trainer
    if config.search is not None:
        raise UserError("search=... belongs to nl search: leave it out, or run that command")
    check_package(config.tracking)
    if not config.tracking.enabled:
        given = {"checkpoint_every_steps": t.checkpoint_every_steps is not None, "profile": t.profile}
        given["max_seconds"] = t.max_seconds is not None
        for key in (key for key, is_given in given.items() if is_given):
            raise UserError(f"trainer.{key} needs tracking=mlflow: its files belong to a logged run")
        if t.curvature_every is not None and config.tracking.files is None:
            raise UserError("trainer.curvature_every needs tracking=mlflow or tracking.files: it logs a curve")
    if t.patience is not None and not config.data.validation:
        raise UserError("trainer.patience needs a validation split: set data.validation above 0")


def _refuse_ignored_by_study(config: Config, name: str) -> None:
    """Refuse settings of a single training, which a study of several ones would ignore."""
    t = config.trainer
    given = {
        "trainer.max_seconds": t.max_seconds,
        "trainer.checkpoint_every_steps": t.checkpoint_every_steps,
        "trainer.profile": t.profile,
        "trainer.curvature_every": t.curvature_every,
        "tracking.files": config.tracking.files,
        "tracking.draw": config.tracking.draw,
        "verify.probe_every": config.verify.probe_every,
    }
    for key in (key for key, value in given.items() if value):
        raise UserError(f"{key} is of a single training, which experiment={name} is not: leave it out")


def _tracker(
    config: Config,
    cfg: DictConfig,
    data: Dataset,
    tags: Mapping[str, str],
    name: str | None,
    resumed: ResumableRun | None,
) -> MLflowTracker | None:
    if not config.tracking.enabled:
        return None
    from nl_training.tracking import MLflowTracker, Store

    if resumed is not None:
        store, name, run_id = resumed.store, str(resumed.run.info.run_name), resumed.run_id
    else:
        store, name, run_id = Store.of(config.tracking, config.experiment), name or run_name(config, cfg), ""
        tags = {**user_tags(config), **tags}
    text = OmegaConf.to_yaml(cfg, resolve=True)
    tags = {**tags, JOB: job_key(cfg, data.digest)}
    t, profile = config.tracking, config.trainer.profile
    return MLflowTracker(store, named(config, cfg), name, text, run_id, t.draw, profile, tags, t.pictures, t.model)


def _print(config: Config, result: Result, tracker: MLflowTracker | None) -> None:
    weights = f"best weights, of epoch {result.best_epoch}"
    print(f"\ntest accuracy {result.test_accuracy:.4f} ({weights}), loss {result.test_loss:.4f}")
    print(f"{result.steps:,} steps in {result.seconds:.1f} s")
    t = config.trainer
    tired = t.patience is not None and result.epochs - result.best_epoch >= t.patience
    if tired and result.epochs < t.epochs and result.steps < (t.max_steps or inf):
        print(f"ended early: no better validation accuracy in {t.patience} epochs")
    if result.target_accuracy is not None:
        reached = result.steps_to_target is not None
        when = f"after {result.steps_to_target:,} steps, {result.seconds_to_target:.1f} s" if reached else "not reached"
        print(f"target {result.target_accuracy}: {when}")
    if tracker is not None:
        print(tracker.hint())
