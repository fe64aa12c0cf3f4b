"""What the scripts do: a checked config in, a run out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from math import inf
from typing import TYPE_CHECKING

from omegaconf import OmegaConf

from nl_nodes import UserError
from nl_training.config import build
from nl_training.config.resolve import resolve
from nl_training.data import EpochBatches
from nl_training.tracking import resume_command
from nl_training.tracking.jobs import JOB, job_key
from nl_training.training.callbacks import Callback, Result
from nl_training.training.checkpoint import Checkpoints
from nl_training.training.progress_bar import CertificateBar, ProgressBar
from nl_training.training.snapshot import restore
from nl_training.training.trainer import Trainer, TrainOptions
from nl_training.verification import Outcome, Training, verify
from nl_training.verification.probe import Probe

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from nl_layers.optimizers import Optimizer
    from nl_models import Network
    from nl_training.config.schema import Config
    from nl_training.data import Dataset
    from nl_training.experiments.result import Figures
    from nl_training.tracking.resume import ResumableRun
    from nl_training.tracking.run import MLflowTracker


def train(
    config: Config, cfg: DictConfig, watching: Sequence[Callback] = (), tags: Mapping[str, str] | None = None
) -> Result | None:
    """Train one run, log it, print its result; None where the run to resume is finished.

    Args:
        config: what is trained.
        cfg: the same, as Hydra composed it.
        watching: observers beside those that the config asks for.
        tags: tags of the run beside the usual ones.

    Raises:
        UserError: when something the config asks for is not there; no run is left open then.
    """
    # Everything that can be refused is made before a run is opened.
    past = _past(config, cfg)
    if past is not None:
        if past.finished:
            print(past.told())
            return None
        cfg = past.config(cfg)
        config = resolve(cfg)
    refuse_ignored(config)
    device = build.device(config)
    data = build.dataset(config)
    net = build.network(config, data, device)
    print(f"{net!r} on {device!r}\n{data.name}: {len(data.train):,} images to train, {len(data.test):,} to test")
    epoch = EpochBatches.of(net, len(data.train), config.trainer.batch_size)
    if epoch.note:
        print(epoch.note)
    tracker = _tracker(config, cfg, data, tags or {}, past)
    outcome = _verified(config, net, training(config, cfg, data, epoch))
    try:
        result = _run(config, cfg, net, data, tracker, outcome, watching)
    except (KeyboardInterrupt, SystemExit):
        if tracker is not None and tracker.run_id:
            print(f"stopped; {resume_command(tracker.store.uri, tracker.run_id)} goes on")
        raise
    _print(result, tracker)
    return result


def experiment(config: Config, cfg: DictConfig) -> Result | Figures | None:
    """Run what a config asks for: an experiment's study, or an ordinary training."""
    if config.experiment is None or config.experiment.study == "training":
        return train(config, cfg)
    from nl_training.experiments.runner import run_experiment

    refuse_ignored(config)
    return run_experiment(config, cfg)


def _run(
    config: Config,
    cfg: DictConfig,
    net: Network,
    data: Dataset,
    tracker: MLflowTracker | None,
    outcome: Outcome,
    watching: Sequence[Callback],
) -> Result:
    """Train under an open run, from its newest checkpoint if it has one."""
    probe = None if config.verify.probe_every is None else Probe(config.verify.probe_every, config.seed)
    with ExitStack() as stack:
        checkpoints = None
        if tracker is not None:
            if tracker.run_id:  # before the run is touched: another process may have it
                checkpoints = stack.enter_context(_checkpoints(config, tracker.run_id))
            stack.enter_context(tracker)
            checkpoints = checkpoints or stack.enter_context(_checkpoints(config, tracker.run_id))
        bar = ProgressBar()
        stack.callback(bar.close)
        callbacks: list[Callback] = [o for o in (bar, tracker, probe, *watching) if o is not None]
        for callback in callbacks:
            callback.on_verified(outcome)
        made = trainer(config, cfg, net, data, callbacks, checkpoints)
        if checkpoints is not None and tracker is not None:
            found = checkpoints.newest()
            if found is not None:
                restore(made, found)
            print(f"run {tracker.run_id}, step {made.step} of {made.total_steps}", flush=True)
        return made.run()


def _past(config: Config, cfg: DictConfig) -> ResumableRun | None:
    """The run to go on with, that of `resume` or the one that a resumed sweep has of this job; None for a new one."""
    from hydra.core.hydra_config import HydraConfig

    from nl_training.tracking import Store
    from nl_training.tracking.resume import find, of_sweep

    if config.resume is None and config.sweep.resume is None:
        return None
    hydra = HydraConfig.get()
    multirun = hydra.mode is not None and hydra.mode.name == "MULTIRUN"
    if config.resume is None:
        if not multirun:
            raise UserError("sweep.resume goes on with a sweep: give -m and the sweep's command line")
        return of_sweep(Store.of(config.tracking), job_key(cfg, build.dataset(config).digest))
    if multirun:
        raise UserError("resume goes on with one run: leave -m out")
    return find(Store.of(config.tracking, write=False), str(config.resume), list(hydra.overrides.task))


def _checkpoints(config: Config, run_id: str) -> Checkpoints:
    from nl_training.tracking.resume import checkpoint_folder

    t = config.trainer
    return Checkpoints(checkpoint_folder(run_id), t.checkpoint_every_steps, t.checkpoint_every_seconds)


def _verified(config: Config, net: Network, training: Training) -> Outcome:
    """Verify the gradients as the config wants it, and tell what came of it."""
    with CertificateBar() as bar:
        outcome = verify(net, config.verify.mode, config.verify.max_seconds, bar.advance, training)
    for line in outcome.lines():
        print(line)
    return outcome


def refuse_ignored(config: Config) -> None:
    """Refuse what this run would ignore, so that nobody relies on it."""
    t = config.trainer
    if config.search is not None:
        raise UserError("search=... is what scripts/search.py does: leave it out, or run that")
    if not config.tracking.enabled:
        needs = {"checkpoint_every_steps": t.checkpoint_every_steps is not None, "profile": t.profile}
        for key in (key for key, given in needs.items() if given):
            raise UserError(f"trainer.{key} needs tracking=mlflow: what it makes belongs to a logged run")


def trainer(
    config: Config,
    cfg: DictConfig,
    net: Network,
    data: Dataset,
    callbacks: list[Callback],
    checkpoints: Checkpoints | None = None,
) -> Trainer:
    """The trainer that a config describes."""
    t = config.trainer
    optimizer = build.optimizer(cfg)
    limits = TrainOptions(t.epochs, t.batch_size, t.max_steps, t.target_accuracy, t.on_nan)
    decay = _penalty(config, optimizer)
    return Trainer(net, optimizer, build.schedule(cfg), data, limits, decay, config.seed, callbacks, checkpoints)


def training(config: Config, cfg: DictConfig, data: Dataset, epoch: EpochBatches) -> Training:
    """How a network is about to train by a config."""
    optimizer, t = build.optimizer(cfg), config.trainer
    evaluated = frozenset(len(split) for split in (data.validation, data.test) if split)
    epochs = min(t.epochs, (t.max_steps or inf) / epoch.count)
    decay = _penalty(config, optimizer)
    return Training(data.train, frozenset(epoch.sizes), evaluated, epochs, optimizer, build.schedule(cfg), decay)


def _penalty(config: Config, optimizer: Optimizer) -> float:
    """The rate of weight decay; an optimizer with a decay of its own (AdamW) takes the place of the penalty."""
    return 0.0 if hasattr(optimizer, "weight_decay") else config.regularization.weight_decay


def _tracker(
    config: Config, cfg: DictConfig, data: Dataset, tags: Mapping[str, str], past: ResumableRun | None
) -> MLflowTracker | None:
    if not config.tracking.enabled:
        return None
    from nl_training.tracking import MLflowTracker, Store

    if past is not None:
        store, name, run_id = past.store, past.run.info.run_name, past.run_id
    else:
        store, run_id = Store.of(config.tracking), ""
        kind = OmegaConf.select(cfg, "optimizer._target_", default="").rpartition(".")[2].lower()
        name = f"{config.model.name} {kind} lr={config.optimizer.lr:g}"
    text = OmegaConf.to_yaml(cfg, resolve=True)
    tags = {**tags, JOB: job_key(cfg, data.digest)}
    draw, profile = config.tracking.draw, config.trainer.profile
    return MLflowTracker(store, asdict(config), name, text, run_id, draw, profile, tags)


def _print(result: Result, tracker: MLflowTracker | None) -> None:
    chosen = f"best weights, of epoch {result.best_epoch}"
    print(f"\ntest accuracy {result.test_accuracy:.4f} ({chosen}), loss {result.test_loss:.4f}")
    print(f"{result.steps:,} steps in {result.seconds:.1f} s")
    if result.target_accuracy is not None:
        reached = result.steps_to_target is not None
        how = f"after {result.steps_to_target:,} steps, {result.seconds_to_target:.1f} s" if reached else "not reached"
        print(f"target {result.target_accuracy}: {how}")
    if tracker is not None:
        print(tracker.hint())
