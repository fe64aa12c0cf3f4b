"""Independent formulas for the fused nodes: direct loops over images."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from support.forward_oracles import dot, groups, oracle


def images(maps: np.ndarray) -> np.ndarray:
    """Return maps (H, W, N, C) as images (N, C, H, W)."""
    y = np.zeros([maps.shape[a] for a in (2, 3, 0, 1)])
    for h, w, n, c in np.ndindex(maps.shape):
        y[n, c, h, w] = maps[h, w, n, c]
    return y


def padded(x: np.ndarray, padding: tuple[int, int, int, int]) -> np.ndarray:
    above, below, left, right = padding
    return np.pad(x, ((above, below), (left, right), (0, 0), (0, 0)))


def max_pool(x: np.ndarray) -> np.ndarray:
    y = np.zeros((x.shape[0] // 2, x.shape[1] // 2, *x.shape[2:]))
    for i, j, n, k in np.ndindex(y.shape):
        y[i, j, n, k] = max(float(v) for v in x[2 * i : 2 * i + 2, 2 * j : 2 * j + 2, n, k].ravel())
    return y


def epilogue(node: Any, y: np.ndarray, residual: np.ndarray | float = 0.0) -> np.ndarray:
    """Apply the node's epilogue: a residual, ReLU, max pooling and zero padding."""
    y = y + residual
    y = np.where(y > 0, y, 0.0) if node.relu else y
    return padded(max_pool(y) if node.pool else y, node.out_pad)


oracle("ZeroPad")(lambda node, x: padded(x, node.padding))
oracle("Pool")(lambda node, x: padded(max_pool(x), node.out_pad))
oracle("ChannelMean", reduces=True)(lambda node, x: groups(x, (0, 1, 2), False, lambda v: math.fsum(v) / len(v)))


@oracle("ChannelVariance", reduces=True)
def channel_variance(node: Any, x: np.ndarray, mean: np.ndarray) -> np.ndarray:
    return groups((x - mean) ** 2, (0, 1, 2), False, lambda v: math.fsum(v) / len(v))


@oracle("Normalize", reduces=True)
def normalize(node: Any, x: np.ndarray, mean: Any, variance: Any, gamma: Any, beta: Any, *residual: Any) -> np.ndarray:
    return epilogue(node, gamma * (x - mean) / np.sqrt(variance + node.eps) + beta, *residual)


@oracle("Affine", reduces=True)
def affine(node: Any, x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Maps are flattened as images, in row-major order."""
    rows = images(x).reshape(x.shape[2], -1) if x.ndim == 4 else x
    y = dot(node, rows, w) + b
    return np.where(y > 0, y, 0.0) if node.relu else y


@oracle("Conv", reduces=True)
def conv(node: Any, x: np.ndarray, w: np.ndarray, b: np.ndarray | float = 0.0) -> np.ndarray:
    """The definition, on the maps without their padding."""
    (h, width), p, s = node.size, node.pad, node.stride
    # Winograd takes unpadded maps, im2col maps padded by `pad` on every side.
    above = 0 if x.shape[:2] == (h, width) else p
    inner = np.pad(x[above : above + h, above : above + width], ((p, p), (p, p), (0, 0), (0, 0)))
    k, _, fh, fw = w.shape
    y = np.zeros(((h + 2 * p - fh) // s + 1, (width + 2 * p - fw) // s + 1, x.shape[2], k))
    for i, j, n, f in np.ndindex(y.shape):
        window = inner[i * s : i * s + fh, j * s : j * s + fw, n].transpose(2, 0, 1)
        y[i, j, n, f] = math.fsum((window * w[f]).ravel())
    return epilogue(node, y + b)


@oracle("LabelLogSoftmax", reduces=True)
def label_log_softmax(node: Any, x: np.ndarray, t: np.ndarray) -> np.ndarray:
    """One row at a time."""
    rows = []
    for row, target in zip(x.tolist(), t.tolist(), strict=True):
        top = max(row)
        log_sum = top + math.log(math.fsum(math.exp(value - top) for value in row))
        rows.append(math.fsum(share * (value - log_sum) for share, value in zip(target, row, strict=True)))
    return np.array(rows)
