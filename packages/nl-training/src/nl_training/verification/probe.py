"""The probe: check the compiled gradient with the complex step, every few steps during training."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from nl_models import Network
from nl_nodes import backend_of
from nl_nodes.verify import DirectionalCheck, through_all
from nl_nodes.verify.certify import TOLERANCE
from nl_training.training.callbacks import Callback, TrainingState
from nl_training.verification.points import NotComparable
from nl_training.verification.twins import compiled_twin, loss_terms, twin

log = logging.getLogger(__name__)


class Probe(Callback):
    """Check all parameters along one random direction every `every` steps, and report the metric `verify/residual`.

    The gradient is computed in float64 by a copy of the network, compiled for the same number of workers (on a GPU:
    node by node on the CPU); the complex step runs node by node. Both use the first batch of the next step and its
    dropout masks. The probe changes neither weights, running statistics nor random state of the training.

    Args:
        every: number of steps from one check to the next.
        seed: seed of the directions, together with the step.
    """

    def __init__(self, every: int, seed: int = 0) -> None:
        self.every, self.seed = every, seed
        self._twins: tuple[Network, Network] | None = None
        self._refused = ""

    def on_batch(self, trainer: TrainingState, step: int, x: Any, t: Any) -> None:
        """Run the check if the step is a multiple of `every`."""
        if step % self.every:
            return
        try:
            images, labels = backend_of([x]).host(x[: trainer.batch_size]), t[: trainer.batch_size]
            residual = self._residual(trainer.net, step, np.asarray(images, dtype=np.float64), np.asarray(labels))
        except NotComparable as why:
            if self._refused != str(why):  # warn once, not at every check
                self._refused = str(why)
                log.warning("step %d: the gradient is not checked: %s", step, why)
            return
        if not residual <= TOLERANCE:
            log.warning("step %d: the gradient is off the complex step by %.1e", step, residual)
        for callback in trainer.callbacks:
            callback.on_metrics(step, {"verify/residual": residual})

    def _residual(self, net: Network, step: int, x: Any, t: Any) -> float:
        compiled, reference = self._twins = self._twins or (compiled_twin(net), twin(net))
        state = net.state_dict()
        for copy in (compiled, reference):
            copy.load_state_dict(state)
        compiled.passes = net.passes
        check = DirectionalCheck(loss_terms(reference, x, t, net.passes))
        direction = through_all(np.random.default_rng((self.seed, step)), reference.params)
        grads = compiled.step(x, t).grads
        with net.device.limits():
            return check.along(grads, direction).residual
