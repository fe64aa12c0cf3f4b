"""What a checkpoint holds of a training, and how a training goes on from it, to the bit."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from nl_nodes import UserError
from nl_training.training.callbacks import EpochReport, Progress
from nl_training.training.checkpoint import Snapshot

if TYPE_CHECKING:
    from nl_training.training.trainer import Trainer

# The arrays' names begin with what they belong to.
WEIGHTS, OPTIMIZER, BEST, OBSERVER = "weights/", "optimizer/", "best/", "observer/"


def snapshot(trainer: Trainer) -> Snapshot:
    """All that the rest of a training depends on, between two steps; copies, so that the training may go on."""
    host = trainer.net.device.host
    arrays = _under(WEIGHTS, trainer.net.state_dict()) | _under(BEST, trainer.best_state)
    arrays |= {f"{OPTIMIZER}{name}": host(array) for name, array in trainer.optimizer.state_dict().items()}
    callbacks = {}
    for callback in trainer.callbacks:
        name = type(callback).__name__
        held, callbacks[name] = callback.state()
        arrays |= _under(f"{OBSERVER}{name}/", held)
    facts = {
        "training": identity(trainer),
        "step": trainer.step,
        "progress": asdict(trainer.progress) | {"seconds": trainer.seconds},
        "passes": trainer.net.passes,
        "updates": trainer.optimizer.steps,
        "observers": callbacks,
    }
    return Snapshot(arrays, facts)


def restore(trainer: Trainer, found: Snapshot) -> None:
    """Bring a new trainer to where the snapshot was taken.

    Raises:
        UserError: when the snapshot is of another training; the first thing that differs is named. Or when it lacks
            what a snapshot has: its checksum keeps accidents away, no hand that knows how to make one.
    """
    try:
        _restore(trainer, found)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        raise UserError("the checkpoint holds no state of a training that this version could have written") from None


def _restore(trainer: Trainer, found: Snapshot) -> None:
    theirs = found.facts["training"]
    for what, ours in identity(trainer).items():
        if theirs.get(what) != ours:
            raise UserError(f"the checkpoint is of another training: its {what} is {theirs.get(what)}, not {ours}")
    net, device = trainer.net, trainer.net.device
    net.load_state_dict(_part(found, WEIGHTS))
    state = {name: device.array(array) for name, array in _part(found, OPTIMIZER).items()}
    trainer.optimizer.load_state_dict(state, found.facts["updates"])
    trainer.best_state = _part(found, BEST)
    net.passes = found.facts["passes"]
    progress = Progress(**found.facts["progress"])
    progress.history = [EpochReport(**epoch) for epoch in found.facts["progress"]["history"]]
    progress.best = (progress.best[0], progress.best[1])
    progress.target = progress.target and (progress.target[0], progress.target[1])
    trainer.progress = progress
    for callback in trainer.callbacks:
        name = type(callback).__name__
        if name in found.facts["observers"]:
            callback.load_state(_part(found, f"{OBSERVER}{name}/"), found.facts["observers"][name])


def identity(trainer: Trainer) -> dict[str, Any]:
    """What must be the same for a training to go on, as JSON gives it back."""
    same = {
        "network": trainer.net.spec,
        "optimizer": type(trainer.optimizer).__name__,
        "data digest": trainer.data.digest,
        "number of images": len(trainer.data.train),
        "batch size": trainer.limits.batch_size,
        "seed": trainer.seed,
    }
    plain: dict[str, Any] = json.loads(json.dumps(same))
    return plain


def _under(prefix: str, arrays: dict[str, Any]) -> dict[str, Any]:
    return {f"{prefix}{name}": array for name, array in arrays.items()}


def _part(found: Snapshot, prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): a for name, a in found.arrays.items() if name.startswith(prefix)}
