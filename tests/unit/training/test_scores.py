"""Precision, recall, F1 and top-5 accuracy beside their definitions."""

import numpy as np
import pytest

from nl_training.tracking.scores import Scores

CLASSES = [*"abcdefg"]


def test_scores_are_those_of_the_definitions() -> None:
    rng = np.random.default_rng(0)
    t, probabilities = rng.integers(0, 6, 200), rng.random((200, 7))  # no image is of class g
    probabilities[:, 5] = 0.0  # f is never predicted
    guess = probabilities.argmax(axis=1)
    scores = Scores.of(t, probabilities, CLASSES)
    for label, (name, count, *found) in enumerate(scores.rows[:6]):
        hits = ((guess == label) & (t == label)).sum()
        precision = hits / max((guess == label).sum(), 1)
        recall = hits / (t == label).sum()
        f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
        assert (name, count) == (CLASSES[label], (t == label).sum())
        assert found == pytest.approx([precision, recall, f1])
    assert scores.rows[6][:2] == ("g", 0)
    assert np.isnan(scores.rows[6][2:]).all()
    columns = np.transpose([row[2:] for row in scores.rows[:6]])
    for name, column in zip(("precision", "recall", "f1"), columns, strict=True):
        assert scores.macro[name] == pytest.approx(column.mean())
    best = np.argsort(-probabilities, axis=1)[:, :5]
    assert scores.metrics["top5_acc"] == pytest.approx((best == t[:, None]).any(axis=1).mean())


def test_five_classes_have_no_top_five() -> None:
    scores = Scores.of(np.array([0, 1]), np.eye(5)[:2], CLASSES[:5])
    assert scores.metrics == {"precision": 1.0, "recall": 1.0, "f1": 1.0}
    assert scores.csv().splitlines()[:2] == ["class,images,precision,recall,f1", "a,1,1.0,1.0,1.0"]
