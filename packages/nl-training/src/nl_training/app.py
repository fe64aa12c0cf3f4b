"""What the scripts do: a checked config in, a run out."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from nl_nodes import UserError
from nl_training.config import build
from nl_training.observer import Observer, Result
from nl_training.probe import Probe
from nl_training.progress import CertificateBar, ProgressBar
from nl_training.trainer import Limits, Trainer
from nl_training.verification import Outcome, verify

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from nl_models import Network
    from nl_training.config.schema import Config
    from nl_training.tracking.run import MLflowTracker


def train(config: Config, cfg: DictConfig) -> Result:
    """Train one run, log it, print its result.

    Raises:
        UserError: when something the config asks for is not there; no run is left open then.
    """
    # Everything that can be refused is made before a run is opened.
    refuse_unbuilt(config)
    device = build.device(config)
    data = build.dataset(config)
    net = build.network(config, data, device)
    print(f"{net!r} on {device!r}\n{data.name}: {len(data.train):,} images to train, {len(data.test):,} to test")
    tracker = _tracker(config, cfg)
    outcome = _verified(config, net)
    probe = None if config.verify.probe_every is None else Probe(config.verify.probe_every, config.seed)
    with tracker or nullcontext():
        bar = ProgressBar()
        observers: list[Observer] = [o for o in (bar, tracker, probe) if o is not None]
        for observer in observers:
            observer.on_verified(outcome)
        try:
            result = trainer(config, cfg, net, data, observers).run()
        finally:
            bar.close()
    _print(result, tracker)
    return result


def _verified(config: Config, net: Network) -> Outcome:
    """Verify the gradients as the config wants it, and tell what came of it."""
    with CertificateBar() as bar:
        outcome = verify(net, config.verify.mode, config.verify.max_seconds, bar.advance)
    for line in outcome.lines():
        print(line)
    return outcome


def refuse_unbuilt(config: Config) -> None:
    """Refuse what the config may ask for but nothing does yet, so that nobody relies on it."""
    t = config.trainer
    asked = {
        f"resume={config.resume}": config.resume is not None,
        f"sweep.resume={config.sweep.resume}": config.sweep.resume is not None,
        "trainer.checkpoint_every_steps": t.checkpoint_every_steps is not None,
        "trainer.checkpoint_every_seconds": t.checkpoint_every_seconds is not None,
        "trainer.profile=true": t.profile,
        "device.tf32=true": config.device.tf32,
    }
    if unbuilt := [option for option, wanted in asked.items() if wanted]:
        raise UserError(f"{unbuilt[0]} is not built yet: leave it out")


def trainer(config: Config, cfg: DictConfig, net: Any, data: Any, observers: list[Observer]) -> Trainer:
    """The trainer that a config describes."""
    t = config.trainer
    optimizer = build.optimizer(cfg)
    # An optimizer with a decay of its own (AdamW) takes the place of the penalty.
    decay = 0.0 if hasattr(optimizer, "weight_decay") else config.regularization.weight_decay
    limits = Limits(t.epochs, t.batch_size, t.max_steps, t.target_accuracy, t.on_nan)
    return Trainer(net, optimizer, build.schedule(cfg), data, limits, decay, config.seed, observers)


def _tracker(config: Config, cfg: DictConfig) -> MLflowTracker | None:
    if not config.tracking.enabled:
        return None
    from nl_training.tracking import MLflowTracker, Store, resolve_uri

    store = Store.open(resolve_uri(config.tracking.uri), config.tracking.experiment_name)
    optimizer = config.optimizer
    kind = OmegaConf.select(cfg, "optimizer._target_", default="").rpartition(".")[2].lower()
    name = f"{config.model.name} {kind} lr={optimizer.lr:g}"
    return MLflowTracker(store, asdict(config), name, OmegaConf.to_yaml(cfg, resolve=True))


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
