"""Conversion between a trainer and its snapshot; a restored training continues bit for bit."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from nl_nodes import UserError
from nl_training.training.callbacks import EpochReport, Progress, TrainingState
from nl_training.training.checkpoint import Snapshot

# Prefixes of array names. The strings "observer/" and "observers" are part of the file format.
WEIGHTS, OPTIMIZER, BEST, AVERAGE, CALLBACK = "weights/", "optimizer/", "best/", "average/", "observer/"


def snapshot(trainer: TrainingState) -> Snapshot:
    """Copy the complete state of a training between two steps."""
    host = trainer.net.device.host
    arrays = _under(WEIGHTS, trainer.net.state_dict()) | _under(BEST, trainer.best_state)
    arrays |= {f"{OPTIMIZER}{name}": host(array) for name, array in trainer.optimizer.state_dict().items()}
    if trainer.average is not None:
        arrays |= _under(AVERAGE, trainer.average.net.state_dict())
    callbacks = {}
    for callback in trainer.callbacks:
        name = type(callback).__name__
        held, callbacks[name] = callback.state()
        arrays |= _under(f"{CALLBACK}{name}/", held)
    facts = {
        "training": identity(trainer),
        "step": trainer.step,
        "progress": asdict(trainer.progress) | {"seconds": trainer.seconds},
        "passes": trainer.net.passes,
        "updates": trainer.optimizer.steps,
        "averaged": trainer.average.updates if trainer.average is not None else 0,
        "executor": trainer.net.device.executor.state() if trainer.net.device.compiles else {},
        "observers": callbacks,
    }
    return Snapshot(arrays, facts)


def restore(trainer: TrainingState, found: Snapshot) -> None:
    """Restore a new trainer to the state of a snapshot.

    Raises:
        UserError: if the snapshot is of another training (the message names the first difference), or is malformed:
            the checksum detects corruption, not tampering.
    """
    try:
        _restore(trainer, found)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        raise UserError("the checkpoint has no training state of the format that this version writes") from None


def _restore(trainer: TrainingState, found: Snapshot) -> None:
    theirs = found.facts["training"]
    for what, ours in identity(trainer).items():
        if theirs.get(what) != ours:
            raise UserError(f"the checkpoint is of another training: its {what} is {theirs.get(what)}, not {ours}")
    net, device = trainer.net, trainer.net.device
    net.load_state_dict(_part(found, WEIGHTS))
    state = {name: device.array(array) for name, array in _part(found, OPTIMIZER).items()}
    trainer.optimizer.load_state_dict(state, found.facts["updates"])
    trainer.best_state = _part(found, BEST)
    if trainer.average is not None:
        trainer.average.net.load_state_dict(_part(found, AVERAGE))
        trainer.average.updates = found.facts["averaged"]
    net.passes = found.facts["passes"]
    if device.compiles:
        device.executor.load_state(found.facts.get("executor"))
    progress = Progress(**found.facts["progress"])
    progress.history = [EpochReport(**epoch) for epoch in found.facts["progress"]["history"]]
    progress.best = (progress.best[0], progress.best[1])
    progress.target = progress.target and (progress.target[0], progress.target[1])
    progress.average = progress.average and (progress.average[0], progress.average[1])
    trainer.progress = progress
    for callback in trainer.callbacks:
        name = type(callback).__name__
        if name in found.facts["observers"]:
            callback.load_state(_part(found, f"{CALLBACK}{name}/"), found.facts["observers"][name])


def identity(trainer: TrainingState) -> dict[str, Any]:
    """Return the properties that must match to resume a training, as JSON round-trips them."""
    properties = {
        "network": trainer.net.spec,
        "optimizer": type(trainer.optimizer).__name__,
        "data digest": trainer.data.digest,
        "number of images": len(trainer.data.train),
        # One number for one batch per step, as in checkpoints from before there were more.
        "batch size": trainer.batch_size if trainer.accumulate == 1 else [trainer.accumulate, trainer.batch_size],
        "seed": trainer.seed,
        # None without any, as checkpoints from before there was any lack it.
        "regularization": str(trainer.regularization) or None,
    }
    plain: dict[str, Any] = json.loads(json.dumps(properties))
    return plain


def _under(prefix: str, arrays: dict[str, Any]) -> dict[str, Any]:
    return {f"{prefix}{name}": array for name, array in arrays.items()}


def _part(found: Snapshot, prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): a for name, a in found.arrays.items() if name.startswith(prefix)}
