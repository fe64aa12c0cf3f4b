"""Scores of a classification beyond its accuracy, by scikit-learn."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any

import numpy as np

from nl_training.tracking.model import softmax
from nl_training.training.callbacks import TrainingState

TOP = 5
COLUMNS = ("class", "images", "precision", "recall", "f1")

Row = tuple[str, int, float, float, float]


@dataclass(frozen=True)
class Scores:
    """Scores of predictions.

    Attributes:
        rows: name, number of images, precision, recall and F1 of each class; NaN for a class without images.
        top: the share of images whose class is among the `TOP` most probable; None for `TOP` classes or fewer.
    """

    rows: tuple[Row, ...]
    top: float | None

    @classmethod
    def of(cls, t: Any, probabilities: Any, classes: Sequence[str]) -> Scores:
        """Return the scores of probabilities (N, classes) for labels t (N,). A class never predicted has precision 0.

        >>> probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]])
        >>> Scores.of(np.array([0, 1, 1]), probabilities, ["no", "yes"]).rows[1]
        ('yes', 2, 1.0, 0.5, 0.6666666666666666)
        """
        from sklearn.metrics import precision_recall_fscore_support, top_k_accuracy_score

        present, labels = np.unique(t), range(len(classes))
        columns = precision_recall_fscore_support(t, probabilities.argmax(axis=1), labels=present, zero_division=0)
        found = {label: map(float, scores) for label, *scores in zip(present.tolist(), *columns[:3], strict=True)}
        nothing = (float("nan"),) * 3
        rows = [(classes[n], int((t == n).sum()), *found.get(n, nothing)) for n in labels]
        top = float(top_k_accuracy_score(t, probabilities, k=TOP, labels=labels)) if len(classes) > TOP else None
        return cls(tuple(rows), top)

    @classmethod
    def of_best(cls, trainer: TrainingState) -> Scores:
        """Return the test scores of a training's best weights."""
        return cls.of(trainer.data.test.t, best_probabilities(trainer), trainer.data.classes)

    @property
    def macro(self) -> dict[str, float]:
        """The means of precision, recall and F1 over the classes with images."""
        columns = zip(*(row[2:] for row in self.rows if row[1]), strict=True)
        return {name: float(np.mean(column)) for name, column in zip(COLUMNS[2:], columns, strict=True)}

    @property
    def metrics(self) -> dict[str, float]:
        """The macro averages and the top accuracy by name."""
        return self.macro if self.top is None else {**self.macro, f"top{TOP}_acc": self.top}

    def csv(self) -> str:
        """Return the rows as CSV with a header."""
        text = StringIO()
        csv.writer(text, lineterminator="\n").writerows([COLUMNS, *self.rows])
        return text.getvalue()


def best_probabilities(trainer: TrainingState) -> Any:
    """Return the probabilities (N, classes) of the test images by the best weights; the network keeps its own."""
    net = trainer.net
    last = net.state_dict()
    net.load_state_dict(trainer.best_state)
    try:
        return softmax(net.device.host(net.predict(trainer.data.test.x)))
    finally:
        net.load_state_dict(last)
