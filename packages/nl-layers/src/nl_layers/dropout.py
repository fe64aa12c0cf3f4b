"""Dropout."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from nl_layers.module import Drawing, Layer, LayerCase, Mode
from nl_nodes import IndexMask, Node
from nl_nodes.arguments import SHARE
from nl_nodes.cases import real

BETWEEN_USES = 2**32
"""Between the streams of two uses of one dropout in a pass; above every stream of another."""


class Dropout(Layer):
    """Zeroes each element with probability `ratio` in training; the identity in inference. Any shape.

    Args:
        ratio: probability of dropping an element, at least 0 and below 1.
        inverted: scale the remaining elements by 1 / (1 - ratio) in training (the default); False is the original form,
            which scales by 1 - ratio in inference instead.
        seed: seed of the masks; the same seed, stream and pass give the same mask on every device.
        stream: distinguishes the dropouts of one network, which numbers those of 0; elsewhere, give each its own.

    Raises:
        UserError: for a ratio outside [0, 1).

    Source: Srivastava et al., Dropout (2014), section 4 and 10; Deep Learning from Scratch, 6.4.3.
    """

    def __init__(self, ratio: float = 0.5, inverted: bool = True, seed: int = 0, stream: int = 0) -> None:
        super().__init__()
        SHARE.check("Dropout", ratio=ratio)
        self.ratio, self.inverted, self.seed, self.stream = ratio, inverted, seed, stream

    def wire(self, *inputs: Node, mode: Mode) -> Node:
        """x -> IndexMask -> MulConst."""
        x = inputs[0]
        if not mode.train:
            return x if self.inverted else x * (1 - self.ratio)
        masked = IndexMask(x, self.ratio, self.seed, self.stream + mode.uses[self] * BETWEEN_USES)
        return masked / (1 - self.ratio) if self.inverted else masked

    @classmethod
    def cases(cls) -> Iterator[LayerCase]:
        """Both forms, in training and in inference."""
        for inverted in (True, False):
            for train in (True, False):
                label = f"{'inverted' if inverted else 'ancestral'}, {'train' if train else 'infer'}"
                yield LayerCase(label, partial(cls._case, inverted), (real(4, 5),), train)

    @classmethod
    def _case(cls, inverted: bool, draw: Drawing) -> Dropout:
        return cls(0.3, inverted, seed=5)
