"""Nodes, layers and models on a real GPU, in float64, have the CPU's values to rounding; TF32 is what it says.

Layers run node by node; nodes and models both so and compiled, fused nodes compiled alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.contract import of_node
from support.layer_cases import LAYER_CASES
from support.node_cases import FUSED_NODES, NODE_CASES, NODES, cases_of
from support.on_device import compiled_case, trained_in_turns

import nl_models
from nl_layers import LayerCase
from nl_layers.optimizers import Adam
from nl_layers.schedules import Cosine
from nl_nodes import Device, Graph, Input
from nl_nodes.cases import Case
from nl_nodes.verify import draw, upstream
from nl_training.data import Split
from nl_training.verification import Training, verify

pytestmark = pytest.mark.gpu

SMALL: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": (20, 10)},
    "cnn3": {"width": 4},
    "cnn8": {"width": 4},
    "vgg11": {"width": 4},
    "vgg16": {"width": 4},
}


@pytest.fixture(scope="module")
def gpu() -> Device:
    return Device("gpu", dtype="float64")


def close(gpu: Device, array: Any, expected: np.ndarray, limit: float = 1e-12) -> None:
    assert gpu.backend.owns(array)
    found = gpu.host(array)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    assert np.all(np.abs(found - expected) <= limit * np.abs(expected).max(initial=0.0))


@pytest.mark.parametrize("case", cases_of({n: node for n, node in NODES.items() if n not in FUSED_NODES}))
def test_node_on_gpu_matches_cpu(gpu: Device, case: Case) -> None:
    rng = np.random.default_rng(0)
    feeds = {f"x{i}": draw(rng, d) for i, d in enumerate(case.draws)}
    inputs = [Input(name, gradient=d.domain != "labels") for name, d in zip(feeds, case.draws, strict=True)]
    graph = Graph(case.build(*inputs))
    y = graph.forward(**feeds)
    dy = upstream(rng, y.shape)
    expected = graph.backward(dy)
    graph.passes = 0
    close(gpu, graph.forward(**{name: gpu.backend.array(x) for name, x in feeds.items()}), y)
    graph.passes = 0
    for name, grad in graph.backward(gpu.backend.array(dy)).items():
        close(gpu, grad, expected[name])


@pytest.mark.parametrize("case", NODE_CASES)
def test_compiled_node_on_gpu_matches_cpu(gpu: Device, case: Case) -> None:
    subject = of_node(case)
    expected = compiled_case(subject, Device(dtype="float64", threads=1))
    for name, array in compiled_case(subject, gpu).items():
        close(gpu, gpu.array(array), expected[name])


@pytest.mark.parametrize("case", LAYER_CASES)
def test_layer_on_gpu_matches_cpu(gpu: Device, case: LayerCase) -> None:
    found = [_passes(case, move) for move in (lambda value: value, gpu.backend.array)]
    for expected, array in zip(*found, strict=True):
        close(gpu, array, expected)


def _passes(case: LayerCase, move: Any) -> list[Any]:
    """Two passes of a case's layer, forward and backward: what comes out of each."""
    rng = np.random.default_rng(0)
    layer = case.make(lambda what: move(draw(rng, what)))
    mode = {} if "t" in layer.feeds else {"train": case.train}
    found = []
    for _ in range(2):
        y = layer.forward(*(move(draw(rng, d)) for d in case.draws), **mode)
        dx = layer.backward(move(upstream(rng, y.shape)))
        found += [y, dx, *layer.grads.values(), *(b.value.copy() for b in layer.buffers.values())]
    return found


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", SMALL)
def test_model_trains_on_gpu_like_on_cpu(name: str, compiled: bool) -> None:
    gpu = Device("gpu", dtype="float64", compile=compiled)
    devices = (Device(dtype="float64", compile=False), gpu)
    nets = [nl_models.build(name, device=d, batch_norm=True, dropout=0.3, **SMALL[name]) for d in devices]
    optimizers = [Adam(1e-3), Adam(1e-3)]
    rng = np.random.default_rng(0)
    for _ in range(3):
        x, t = rng.standard_normal((6, *nets[0].input_shape)), rng.integers(0, 10, 6)
        losses = []
        for net, optimizer in zip(nets, optimizers, strict=True):
            done = net.step(x, t)
            optimizer.update(net.params, done.grads)
            losses.append(float(net.device.host(done.loss)))
        assert losses[1] == pytest.approx(losses[0], rel=1e-9)
    for key, value in nets[0].params.items():
        close(gpu, nets[1].params[key], value, 1e-6)
    x = rng.standard_normal((5, *nets[0].input_shape))
    close(gpu, nets[1].predict(x), nets[0].predict(x), 1e-6)


@pytest.mark.parametrize("first", ["gpu", "cpu"])
def test_a_training_moves_between_gpu_and_cpu(gpu: Device, first: str, tmp_path: Path) -> None:
    """There and back: stopped after steps 2 and 4 of 6, each time continued on the other device."""
    cpu = Device(dtype="float64", threads=1)
    here, there = (gpu, cpu) if first == "gpu" else (cpu, gpu)
    metrics, state = trained_in_turns([(cpu, None)], tmp_path / "whole")
    found_metrics, found = trained_in_turns([(here, 2), (there, 4), (here, None)], tmp_path / "moved")
    assert found_metrics == [pytest.approx(epoch, rel=1e-6) for epoch in metrics]
    for key, value in state.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-5, atol=1e-8)


def test_a_certificate_is_made_on_the_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    net = nl_models.build("cnn3", width=4, batch_norm=True, dropout=0.3, device=Device("gpu"))
    rng = np.random.default_rng(1)
    train = Split(rng.standard_normal((9, *net.input_shape)), rng.integers(0, 10, 9))
    training = Training(train, frozenset({8}), frozenset({6}), 3.5, Adam(), Cosine(), 0.01)
    certificate = verify(net, "strict", np.inf, training=training).certificate
    assert certificate is not None
    assert certificate.gpu.startswith("verified: ")


def test_a_compiled_step_is_one_graph_whose_replays_are_equal_bit_by_bit() -> None:
    net = nl_models.build("cnn8", device=Device("gpu"), batch_norm=True, dropout=0.3, **SMALL["cnn8"])
    rng = np.random.default_rng(0)
    feeds = {"x": rng.standard_normal((16, *net.input_shape)), "t": rng.integers(0, 10, 16)}
    plan = net.plan(True, 16)
    assert plan._loaded.graph is not None
    grads = []
    for _ in range(2):
        plan.run(feeds, 0)
        grads.append(net.device.host(net._grads.flat))
    assert np.array_equal(*grads)


def test_tf32_rounds_products_only_if_enabled() -> None:
    rng = np.random.default_rng(0)
    for shape in ((256, 256), (4, 256, 256)):
        a, b = (rng.standard_normal(shape) for _ in range(2))
        errors = []
        for tf32 in (True, False):
            device = Device("gpu", tf32=tf32)
            with device.limits():
                product = device.host(device.xp.matmul(device.array(a), device.array(b)))
            errors.append(np.abs(product - a @ b).max() / np.abs(a @ b).max())
        assert 1e-5 < errors[0] < 1e-2
        assert errors[1] < 1e-6
