"""The exponential moving average of a network's weights during its training."""

from __future__ import annotations

from nl_layers.flat import blocks
from nl_models import Network
from nl_nodes.typing import Array


class WeightAverage:
    """A copy of a network whose weights and running statistics are moving averages of the network's.

    After step n, from 0, each average is `e = d e + (1 - d) w` with `d = min(decay, (1 + n) / (10 + n))`; it starts as
    the weights. The smaller decay at first forgets the initial weights soon.

    Args:
        of: the network that trains.
        decay: above 0 and below 1.

    Attributes:
        net: the network with the averages.
        updates: number of updates so far.

    Source: Polyak and Juditsky, Acceleration of Stochastic Approximation by Averaging (1992); the decay is that of
    TensorFlow's `ExponentialMovingAverage` with `num_updates`.
    """

    def __init__(self, of: Network, decay: float) -> None:
        self.of, self.decay, self.updates = of, decay, 0
        self.net = of.on(of.device)

    def update(self) -> None:
        """Move the averages towards the network's values after a step."""
        share = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        for whole in zip(_arrays(self.net), _arrays(self.of), strict=True):
            for average, value in blocks(*whole):
                average += share * (value - average)
        self.updates += 1


def _arrays(net: Network) -> list[Array]:
    """Return the buffer of parameters, and the running statistics."""
    return [net.params.flat, *(leaf.value for layer in net.layers for leaf in layer.buffers.values())]
