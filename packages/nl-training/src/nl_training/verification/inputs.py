"""Augmentation and mixup written as in textbooks, image by image: the reference for the batches of a training."""

from __future__ import annotations

from typing import Any

import numpy as np

from nl_nodes.philox import philox
from nl_training.training.regularization import Regularization

STREAMS = {"shift": 2**32, "crop_flip": 2**32 + 1, "cutout": 2**32 + 2}
MIXUP_STREAM = 2**33


def expected_batch(
    images: Any,
    labels: Any,
    index: Any,
    regularization: Regularization,
    black: Any,
    classes: int,
    seed: int,
    epoch: int,
    step: int,
) -> tuple[Any, Any]:
    """Return images and labels of the step `step`, from 0, of an epoch, whose indices in the split are `index`.

    Args:
        images: all images of the split (N, C, H, W).
        labels: their class indices.
        index: the indices of the step's images.
        regularization: its augmentation and mixup are used.
        black: a black pixel (C,), normalised.
        classes: the number of classes.
        seed: seed of the training.
        epoch: the epoch, from 1.
        step: the step of the epoch, from 0.
    """
    x, t = np.array(images[index]), labels[index]
    for name in regularization.augment:
        for n, number in enumerate(index):
            x[n] = _augmented(name, x[n], _numbers(name, seed, epoch, int(number)), black)
    if not regularization.mixup:
        return x, t
    rng = np.random.Generator(np.random.Philox(counter=[0, step, epoch, 0], key=(MIXUP_STREAM << 64) + seed))
    share, order = rng.beta(regularization.mixup, regularization.mixup), rng.permutation(len(t))
    rows = [
        [share * (a == k) + (1 - share) * (b == k) for k in range(classes)] for a, b in zip(t, t[order], strict=True)
    ]
    return share * x + (1 - share) * x[order], np.array(rows) if classes > 1 else (share * t + (1 - share) * t[order])[
        :, None
    ]


def _numbers(name: str, seed: int, epoch: int, image: int) -> list[float]:
    """Return four random numbers from 0 to below 1: an image's two words of Philox, low halves first."""
    words = [int(word) for word in philox(seed, STREAMS[name], epoch, 2, start=2 * image)]
    return [half / 2**32 for word in words for half in (word % 2**32, word // 2**32)]


def _augmented(name: str, image: Any, numbers: list[float], black: Any) -> Any:
    """Return a changed image (C, H, W)."""
    _, h, w = image.shape
    if name == "cutout":
        side, y, x = min(h, w) // 2, int(numbers[0] * h), int(numbers[1] * w)
        top, left = y - side // 2, x - side // 2
        image = image.copy()
        image[:, max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = 0
        return image
    share = {"shift": 14, "crop_flip": 8}[name]
    down, right = max(1, h // share), max(1, w // share)
    frame = [
        np.pad(channel, ((down, down), (right, right)), constant_values=c)
        for channel, c in zip(image, black, strict=True)
    ]
    top, left = int(numbers[0] * (2 * down + 1)), int(numbers[1] * (2 * right + 1))
    window = np.stack(frame)[:, top : top + h, left : left + w]
    return window[:, :, ::-1] if name == "crop_flip" and numbers[2] >= 0.5 else window
