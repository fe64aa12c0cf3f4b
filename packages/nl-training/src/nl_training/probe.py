"""The probe: now and then, the gradient at the current weights and batch against the complex step."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from nl_models import Network
from nl_nodes.verify.certify import TOLERANCE
from nl_nodes.verify.numeric import COMPLEX_H
from nl_training.observer import Observer
from nl_training.verification.certify import UPSTREAM, training_graph
from nl_training.verification.twins import twin

if TYPE_CHECKING:
    from nl_training.trainer import Trainer

log = logging.getLogger(__name__)


class Probe(Observer):
    """Every so many steps, checks all parameters in one random direction, and reports the metric `verify/residual`.

    It works on a float64 twin of the network, with the same batch, dropout masks and batch statistics, and changes
    nothing of the training: neither weights nor running statistics nor any random state.

    Args:
        every: how many steps lie between two checks.
        seed: what the directions are drawn from, with the step.
    """

    def __init__(self, every: int, seed: int = 0) -> None:
        self.every, self.seed = every, seed
        self._twin: Network | None = None

    def on_batch(self, trainer: Trainer, step: int, x: Any, t: Any) -> None:
        """Check, if it is time."""
        if step % self.every:
            return
        residual = self._residual(trainer.net, step, x, t)
        if not residual <= TOLERANCE:
            log.warning("step %d: the gradient is off the complex step by %.1e", step, residual)
        for observer in trainer.observers:
            observer.on_metrics(step, {"verify/residual": residual})

    def _residual(self, net: Network, step: int, x: Any, t: Any) -> float:
        if self._twin is None:
            self._twin = twin(net)
        self._twin.load_state_dict(net.state_dict())
        graph = training_graph(self._twin, len(x))
        graph.passes = net.passes
        feeds = {"x": np.asarray(x, dtype=np.float64), "t": np.asarray(t)}
        rng = np.random.default_rng((self.seed, step))
        with net.device.limits():
            grads = graph.run(**feeds).backward(UPSTREAM)
            direction = {name: rng.choice([-1.0, 1.0], grad.shape) for name, grad in grads.items()}
            point = {name: self._twin.params[name] + 1j * COMPLEX_H * u for name, u in direction.items()}
            loss = graph.run(**feeds, **point).results[0]
        numeric = float(UPSTREAM * loss.imag) / COMPLEX_H
        analytic = sum(float(np.sum(grads[name] * u)) for name, u in direction.items())
        # The size that the product has: the root of the sum of squares, since the signs are independent.
        scale = max(float(np.sqrt(sum(np.sum(grad * grad) for grad in grads.values()))), abs(numeric))
        return abs(analytic - numeric) / scale if scale else 0.0
