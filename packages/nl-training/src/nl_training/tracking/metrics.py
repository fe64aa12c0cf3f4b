"""A run's metrics, written in batches: one write of a thousand points costs little more than a write of one."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

log = logging.getLogger(__name__)

BATCH = 1000  # the most that MLflow takes in one write
SECONDS = 2.0  # how far the UI may lag behind
PATIENCE = 30.0  # how long a store that failed is left alone


class MetricBuffer:
    """Keeps metrics until there are many or some time has passed.

    A store that fails in the middle of a run costs no training: the metrics are kept and tried again, and only the
    last `flush` raises.
    """

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self._client, self._run_id = client, run_id
        self._waiting: list[Metric] = []
        self._due = time.monotonic() + SECONDS
        self._failing = False

    def add(self, step: int, metrics: Mapping[str, float], model_id: str | None = None) -> None:
        """Take metrics of a step, and write all that wait if it is time."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._waiting += [Metric(key, float(value), now, step, model_id) for key, value in metrics.items()]
        many = len(self._waiting) >= BATCH and not self._failing
        if many or time.monotonic() >= self._due:
            self._try_flush()

    def flush(self) -> None:
        """Write all that wait; what the store raises is passed on."""
        while self._waiting:
            self._client.log_batch(self._run_id, metrics=self._waiting[:BATCH])
            del self._waiting[:BATCH]
        self._due, self._failing = time.monotonic() + SECONDS, False

    def _try_flush(self) -> None:
        try:
            self.flush()
        except Exception as error:
            if not self._failing:
                log.warning("metrics cannot be written now and are kept for later: %s", str(error).splitlines()[0])
            self._due, self._failing = time.monotonic() + PATIENCE, True
