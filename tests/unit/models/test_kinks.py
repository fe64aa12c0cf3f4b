"""Inputs exactly at kinks, as in a first step on digits: compiled and reference give the same gradient."""

import numpy as np
import pytest
from support.random_networks import Fork

from nl_layers import Affine, Convolution, Layer, Pooling, Relu, Tanh
from nl_models import Network, build
from nl_nodes import Add, Device

BATCH, CLASSES = 4, 3
WORKERS = [("threads", 1), ("threads", 2)]
rng = np.random.default_rng(0)


def convolution(c: int, k: int, pad: int = 1) -> Convolution:
    return Convolution(rng.standard_normal((k, c, 3, 3)) / (9 * c) ** 0.5, np.zeros(k), pad=pad)


def affine(size: int) -> Affine:
    return Affine(rng.standard_normal((size, CLASSES)) / size**0.5, np.zeros(CLASSES))


STACKS: dict[str, tuple[tuple[int, ...], list[Layer]]] = {
    "rectified": ((8, 9, 9), [convolution(8, 8), Relu(), affine(8 * 81)]),
    "pooled": ((8, 9, 10), [convolution(8, 9), Relu(), Pooling(2, 2), convolution(9, 8, 2), Relu(), affine(8 * 42)]),
    "pooled first": ((8, 8, 8), [convolution(8, 8), Pooling(2, 2), Relu(), affine(8 * 16)]),
    "few images, many kernels": ((40, 4, 4), [convolution(40, 40), Relu(), affine(40 * 16)]),
    "beside a branch": ((8, 7, 7), [Fork(Add, [convolution(8, 8)], [convolution(8, 8)]), Relu(), affine(8 * 49)]),
    "behind tanh": ((8, 8, 8), [Tanh(), convolution(8, 8), Relu(), affine(8 * 64)]),
    "windows": ((3, 8, 8), [convolution(3, 4), Relu(), Pooling(2, 2), convolution(4, 4), Relu(), affine(4 * 16)]),
}


def sparse(shape: tuple[int, ...]) -> np.ndarray:
    """Return images that are zero except for some pixels on one side, so that some windows are all zero."""
    images = rng.standard_normal((BATCH, *shape)) * (rng.random((BATCH, 1, *shape[1:])) < 0.15)
    images[..., : shape[2] // 3] = 0
    return images


def gradients(make, x: np.ndarray, **device) -> dict[str, np.ndarray]:
    t = np.arange(len(x)) % CLASSES
    return {name: grad.copy() for name, grad in make(Device(dtype="float64", **device)).gradient(x, t).items()}


def check(make, x: np.ndarray) -> None:
    expected = gradients(make, x, compile=False)
    for workers, threads in WORKERS:
        found = gradients(make, x, workers=workers, threads=threads)
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-12 * np.abs(value).max(), err_msg=name)


@pytest.mark.parametrize("name", STACKS)
def test_first_step_on_sparse_images_matches_the_reference(name: str) -> None:
    shape, layers = STACKS[name]
    spec = {"name": name, "input_shape": shape, "classes": CLASSES}
    check(lambda device: Network([(layer, i) for i, layer in enumerate(layers, 1)], spec, device), sparse(shape))


@pytest.mark.parametrize("name", ["cnn3", "cnn8", "vgg11"])
def test_first_step_of_a_model_on_black_images_matches_the_reference(name: str) -> None:
    width = {"cnn3": 16, "cnn8": 32, "vgg11": 8}[name]
    x = np.zeros((BATCH, 1, 28, 28))
    x[:, :, 9:19, 6:21] = rng.uniform(0, 1, (BATCH, 1, 10, 15))
    check(lambda device: build(name, width=width, classes=CLASSES, seed=0, device=device), x)
