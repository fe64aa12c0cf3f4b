"""The results of a training pass."""

from __future__ import annotations

from dataclasses import dataclass

from nl_layers import FlatDict
from nl_nodes.typing import Array


@dataclass(frozen=True)
class TrainOutput:
    """The results of a training pass; the gradients are valid until the same thread's next call.

    Attributes:
        loss: mean loss of the batch, without the penalty.
        logits: (N, classes), in training mode.
        grads: gradients by parameter name.
    """

    loss: Array
    logits: Array
    grads: FlatDict


@dataclass(frozen=True)
class Enqueued:
    """The results of a training step that a GPU may not have taken yet: arrays without axes, on the GPU.

    Attributes:
        loss: mean loss of the batch, without the penalty.
        hits: number of images classified correctly.
        finite: whether this pass and those before were finite; valid until the next pass.
    """

    loss: Array
    hits: Array
    finite: Array
