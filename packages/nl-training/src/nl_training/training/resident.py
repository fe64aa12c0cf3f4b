"""Images that stay on the GPU during a training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from nl_nodes import Device
from nl_training.data import Split

SHARE = 1 / 4
"""The share of the GPU's free memory that a split's images may take."""


class ResidentImages:
    """Images (N, C, H, W) on a GPU, indexed as an array of the host is.

    Args:
        device: a device with a GPU.
        images: the images on the host.
    """

    def __init__(self, device: Device, images: Any) -> None:
        self._device, self._images = device, device.array(images)
        self._indices: dict[int, Any] = {}

    def __getitem__(self, index: Any) -> Any:
        """Return the images of a slice, or of an array of indices on the host, as an array of the GPU."""
        if isinstance(index, slice):
            return self._images[index]
        if len(index) not in self._indices:
            self._indices[len(index)] = self._device.xp.empty(len(index), dtype=np.int64)
        own = self._indices[len(index)]
        self._device.executor.write(own, index)
        return self._images[own]


def resident(device: Device, split: Split) -> Split:
    """Return a split with its images on the GPU, or the split itself where they take too much of its memory."""
    size = split.x.size * np.dtype(device.dtype).itemsize
    if device.card is None or size > SHARE * device.card.free():
        return split
    images: Any = ResidentImages(device, split.x)
    return replace(split, x=images)
