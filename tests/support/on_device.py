"""Comparisons of a device with the CPU, for tests on a GPU and on the stand-in for one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nl_layers.optimizers import Adam
from nl_layers.schedules import Cosine
from nl_models import build
from nl_nodes import Device, Graph, Input, Mul
from nl_nodes.compiler import CompileSpec, Plan
from nl_training.data import Split, load
from nl_training.training.callbacks import Callback, StepReport
from nl_training.training.checkpoint import Checkpoints
from nl_training.training.snapshot import restore
from nl_training.training.trainer import Trainer, TrainOptions
from support.contract import Subject

Arrays = dict[str, np.ndarray]


def compiled_case(s: Subject, device: Device) -> Arrays:
    """Return the weighted output of a case and its gradients, compiled for a device without any rewriting."""
    graph = Graph(Mul(s.graph.outputs[0], Input("dy", gradient=False)))
    feeds = {**s.feeds, "dy": s.dy}
    shapes = {name: (x.shape, x.dtype) for name, x in feeds.items()}
    plan = Plan(graph, CompileSpec(shapes, frozenset(), {}), device.executor)
    output = plan.run(feeds, 3)[0]
    return {name: device.host(array) for name, array in {"the output": output, **plan.grads}.items()}


def trained_in_turns(turns: Sequence[tuple[Device, int | None]], folder: Path) -> tuple[Any, Arrays]:
    """Train on one device after another, each from the checkpoint of the one before.

    Args:
        turns: a device, and the step after which it stops; None for the end of the training.
        folder: an empty folder for checkpoints.

    Returns:
        The epochs' metrics, and the final weights and running statistics.
    """
    data = load("digits")
    data = replace(data, train=Split(data.train.x[:130], data.train.t[:130]))  # three batches an epoch
    for device, last in turns:
        net = build("mlp", input_shape=data.input_shape, width=16, batch_norm=True, dropout=0.2, device=device)
        options = TrainOptions(epochs=2, batch_size=50)
        with Checkpoints(folder) as saved, suppress(KeyboardInterrupt):
            callbacks = [_Stop(last)]
            trainer = Trainer(net, Adam(0.01), Cosine(), data, options, 1e-3, callbacks=callbacks, checkpoints=saved)
            if (found := saved.newest()) is not None:
                restore(trainer, found)
            trainer.run()
    return [epoch.metrics for epoch in trainer.progress.history], net.state_dict()


class _Stop(Callback):
    """Requests a stop after a step."""

    def __init__(self, step: int | None) -> None:
        self._step = step
        self._error: BaseException | None = None

    def on_step(self, report: StepReport) -> None:
        if report.step == self._step:
            self._error = KeyboardInterrupt()

    def stop_request(self) -> BaseException | None:
        return self._error
