"""A run's metrics: each point is made once, kept in the checkpoints until it is sent, and sent in batches."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

log = logging.getLogger(__name__)

BATCH = 1000  # the most that MLflow takes in one write
SECONDS = 2.0  # how often it is written
PATIENCE = 30.0  # how long a store that failed is left alone


@dataclass(frozen=True)
class Point:
    """One value of one metric, with the step and the millisecond at which it was made."""

    key: str
    value: float
    time: int
    step: int
    model_id: str | None = None


class MetricBuffer:
    """Keeps points until a checkpoint covers them, and then until some time has passed.

    What is sent before a checkpoint has it would be made a second time, with another time, when the run is resumed from
    an earlier one. What a checkpoint covers may be sent again: the store knows a point that it has.

    A store that fails in the middle of a run costs no training: the points are kept and tried again, and only the last
    `flush` raises.

    Args:
        client: the store's.
        run_id: the run.
        known: the metrics and steps that the store has already, of which no point is made again.
    """

    def __init__(self, client: MlflowClient, run_id: str, known: Collection[tuple[str, int]] = ()) -> None:
        self._client, self._run_id, self._known = client, run_id, known
        self._waiting: list[Point] = []
        self._sent = 0
        self._covered = 0
        self._due = time.monotonic() + SECONDS
        self._failing = False

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Make points of a step, and send those that are covered if it is time."""
        now = int(time.time() * 1000)
        points = [Point(key, float(value), now, step) for key, value in metrics.items()]
        self._waiting += [point for point in points if (point.key, step) not in self._known]
        if time.monotonic() >= self._due:
            self._try_send()

    def cover(self, made: int) -> None:
        """A checkpoint on the disk has the first `made` points."""
        self._covered = max(self._covered, made)

    def link(self, keys: Collection[str], model_id: str) -> None:
        """Let these metrics' points, of those that wait, be the model's too."""
        self._waiting = [replace(p, model_id=model_id) if p.key in keys else p for p in self._waiting]

    def flush(self) -> None:
        """Send all that wait, covered or not; what the store raises is passed on."""
        self.cover(self._sent + len(self._waiting))
        self._send()

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The points that wait, by column, and how many were made in all."""
        keys = {key: number for number, key in enumerate(dict.fromkeys(p.key for p in self._waiting))}
        arrays = {
            "key": np.array([keys[p.key] for p in self._waiting], np.int64),
            "value": np.array([p.value for p in self._waiting], np.float64),
            "time": np.array([p.time for p in self._waiting], np.int64),
            "step": np.array([p.step for p in self._waiting], np.int64),
        }
        return arrays, {"keys": list(keys), "made": self._sent + len(self._waiting)}

    def load_state(self, arrays: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        columns = [arrays[name].tolist() for name in ("key", "value", "time", "step")]
        self._waiting = [Point(facts["keys"][key], *rest) for key, *rest in zip(*columns, strict=True)]
        self._covered = facts["made"]
        self._sent = self._covered - len(self._waiting)

    def _send(self) -> None:
        while (count := min(self._covered - self._sent, BATCH)) > 0:
            self._client.log_batch(self._run_id, metrics=[_metric(point) for point in self._waiting[:count]])
            del self._waiting[:count]
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

    return Metric(point.key, point.value, point.time, point.step, point.model_id)
