"""A run's metrics: each point is recorded once, kept in checkpoints until it is sent, and sent in batches."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

log = logging.getLogger(__name__)

BATCH = 1000  # MLflow's limit per request
SECONDS = 2.0  # between two requests
PATIENCE = 30.0  # seconds between retries after a failure


@dataclass(frozen=True)
class Point:
    """A value of a metric with its step and its time in milliseconds."""

    key: str
    value: float
    time: int
    step: int


class MetricBuffer:
    """Buffers points until a checkpoint contains them, then sends them in batches.

    A point sent before it is in a checkpoint would be recorded again, with another time, when the run is resumed from
    an earlier one. Points in a checkpoint may be sent twice: the store ignores a point that it has.

    A failing store does not stop the training: the points are kept and sent later, and only `flush` raises.

    Args:
        client: the store's client.
        run_id: the run's ID.
        known: (metric, step) pairs that the store already has, for which no point is recorded.
    """

    def __init__(self, client: MlflowClient, run_id: str, known: Collection[tuple[str, int]] = ()) -> None:
        self._client, self._run_id, self._known = client, run_id, known
        self._pending: list[Point] = []
        self._sent = 0
        self._saved = 0
        self._due = time.monotonic() + SECONDS
        self._failing = False

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record points of a step, and send saved points if it is time."""
        now = int(time.time() * 1000)
        points = [Point(key, float(value), now, step) for key, value in metrics.items()]
        self._pending += [point for point in points if (point.key, step) not in self._known]
        if time.monotonic() >= self._due:
            self._try_send()

    def mark_saved(self, count: int) -> None:
        """Note that a checkpoint on disk contains the first `count` points."""
        self._saved = max(self._saved, count)

    def flush(self) -> None:
        """Send all pending points; errors of the store propagate."""
        self.mark_saved(self._sent + len(self._pending))
        self._send()

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the pending points as columns, and the number of all points so far."""
        keys = {key: number for number, key in enumerate(dict.fromkeys(p.key for p in self._pending))}
        arrays = {
            "key": np.array([keys[p.key] for p in self._pending], np.int64),
            "value": np.array([p.value for p in self._pending], np.float64),
            "time": np.array([p.time for p in self._pending], np.int64),
            "step": np.array([p.step for p in self._pending], np.int64),
        }
        return arrays, {"keys": list(keys), "made": self._sent + len(self._pending)}

    def load_state(self, arrays: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """Restore the result of `state`."""
        columns = [arrays[name].tolist() for name in ("key", "value", "time", "step")]
        self._pending = [Point(facts["keys"][key], *rest) for key, *rest in zip(*columns, strict=True)]
        self._saved = facts["made"]
        self._sent = self._saved - len(self._pending)

    def _send(self) -> None:
        while (count := min(self._saved - self._sent, BATCH)) > 0:
            self._client.log_batch(self._run_id, metrics=[_metric(point) for point in self._pending[:count]])
            del self._pending[:count]
            self._sent += count
        self._due, self._failing = time.monotonic() + SECONDS, False

    def _try_send(self) -> None:
        try:
            self._send()
        except Exception as error:
            if not self._failing:
                log.warning("metrics cannot be written now and are kept for later: %s", str(error).splitlines()[0])
            self._due, self._failing = time.monotonic() + PATIENCE, True


def _metric(point: Point) -> Metric:
    from mlflow.entities import Metric

    return Metric(point.key, point.value, point.time, point.step)
