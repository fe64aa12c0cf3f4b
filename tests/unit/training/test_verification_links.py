"""The links of a certificate, by the size of the evaluated split and by device."""

from pathlib import Path

import numpy as np
import pytest
from support.assertions import refused
from support.fake_device import install

from nl_layers import Pooling, Relu
from nl_layers.optimizers import SGD
from nl_layers.schedules import Step
from nl_models import ConvSpec, DenseSpec, Network, Sequential, build
from nl_nodes import Device, Tanh
from nl_nodes.device.product_cut import CUTS
from nl_training.data import Split
from nl_training.verification import Chain, Training, verify


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def net(**options) -> Network:
    return build("mlp", **{"input_shape": (1, 4, 4), "hidden": (5,), "classes": 3, **options})


def training(*evaluated: int) -> Training:
    rng = np.random.default_rng(1)
    train = Split(rng.standard_normal((9, 1, 4, 4)), rng.integers(0, 3, 9))
    return Training(train, frozenset({7}), frozenset(evaluated), 7.5, SGD(0.01), Step(2), 0.0)


def test_a_node_that_gives_more_precision_than_its_input_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Tanh.forward
    monkeypatch.setattr(Tanh, "forward", lambda self, ctx, *inputs: right(self, ctx, *inputs) * np.float64(1))
    with refused("verify=strict", "precision", "Tanh(", "forward gives float64 from float32"):
        verify(net(activation="tanh"), "strict", 1e6, training=training(6))


@pytest.mark.parametrize("threads", [1, 2])
def test_training_with_cut_products_and_panels_is_replayed_bit_by_bit(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = [ConvSpec(64, pad=1), Relu(), ConvSpec(64, pad=1), Relu(), Pooling(2, 2), DenseSpec(100), DenseSpec(3)]
    model = Sequential(layers, (1, 8, 8), device=Device(workers="threads", threads=threads))
    monkeypatch.setattr(model.device.executor, "product_cut", CUTS[0])
    rng = np.random.default_rng(2)
    train = Split(rng.standard_normal((128, 1, 8, 8)), rng.integers(0, 3, 128))
    asked = Training(train, frozenset({128}), frozenset({6}), 7.5, SGD(0.01), Step(2), 0.0)
    links = [link for name, link in Chain(model, 2, asked).links().items() if name.startswith("executor")]
    assert [link().distance for link in links] == [0.0] * len(links) != []
    pieces = {args[0].shape for name, args in model.plan(True, 128).calls[0] if name == "matmul"}
    assert pieces >= {(36, 1, 2, 1, 128, 64), (16 // threads, 1, 8, 1024)}


def test_evaluation_is_checked_with_a_full_and_a_partial_batch() -> None:
    names = Chain(net(), 2, training(6, 256, 1000, 10000)).links()
    sizes = [int(name.split()[1]) for name in names if name.startswith("inference")]
    assert sizes == [6, 256, 256 + 1000 % 256, 256 + 10000 % 256]


def test_links_on_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    install()
    model = net(device=Device("fake"), batch_norm=True)
    certificate = verify(model, "strict", 1e6, training=training(6)).certificate
    kinds = {link.kind for link in certificate.links}
    assert kinds == {"nodes", "reference", "plan", "device", "bits", "inference", "step", "trainer"}
    assert certificate.gpu == "not run"  # no plan has run on a GPU
    right = SGD.update_array
    wrong = lambda s, p, g: right(s, p, g * (1.2 if p.dtype == np.float32 else 1))  # noqa: E731
    monkeypatch.setattr(SGD, "update_array", wrong)
    with refused("verify=strict", "trainer, 17 images", "fake"):
        verify(net(device=Device("fake"), dropout=0.1, batch_norm=True), "strict", 1e6, training=training(6))
