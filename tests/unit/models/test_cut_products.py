"""Plans with large products cut: the same calls and results, and the same bits on all executors."""

from typing import Any

import numpy as np
import pytest
from support.small_models import CLASSES, WIDTHS

from nl_models import Network, build
from nl_nodes import Device
from nl_nodes.runtime.cut import ProductCut

BATCH, LIMIT = 12, 5000
WIDE = WIDTHS | {"cnn3": 32}  # products of few columns stay whole
rng = np.random.default_rng(8)
X, T = rng.standard_normal((BATCH, 1, 28, 28)), rng.integers(0, CLASSES, BATCH)


def network(monkeypatch: pytest.MonkeyPatch, name: str, limit: int | None, **device: Any) -> Network:
    net = build(name, device=Device(dtype="float64", **device), width=WIDE[name], classes=CLASSES, seed=3)
    monkeypatch.setattr(net.device.executor, "product_cut", limit and ProductCut(limit, narrow=True))
    net.step(X, T)  # makes the plan
    return net


def cut_calls(plain: Network, cut: Network) -> list[Any]:
    """Return the arguments of the calls of `cut` whose products have another shape than in `plain`."""
    pairs = [
        (args, others)
        for calls, other_calls in zip(plain.plan(True, BATCH).calls, cut.plan(True, BATCH).calls, strict=True)
        for (name, args), (_, others) in zip(calls, other_calls, strict=True)
        if name == "matmul"
    ]
    return [others for args, others in pairs if args[2].shape != others[2].shape]


def same_bits(net: Network, other: Network) -> bool:
    for _ in range(3):
        done, others = net.step(X, T), other.step(X, T)
        if done.loss != others.loss or not all(np.array_equal(done.grads[n], others.grads[n]) for n in done.grads):
            return False
    return True


@pytest.mark.parametrize("name", ["mlp", "cnn3", "cnn8", "vgg11"])
def test_cutting_changes_neither_the_calls_nor_more_than_rounding(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    plain = network(monkeypatch, name, None, threads=1)
    cut = network(monkeypatch, name, LIMIT, threads=1)
    before, after = plain.plan(True, BATCH), cut.plan(True, BATCH)
    assert [call for call, _ in after.calls[0]] == [call for call, _ in before.calls[0]]
    assert [direction for _, direction in after.owners[0]] == [direction for _, direction in before.owners[0]]
    assert after.size == before.size
    changed = cut_calls(plain, cut)
    assert changed
    for a, b, _ in changed:
        assert a.shape[-2] * a.shape[-1] * b.shape[-1] <= LIMIT
    done, expected = cut.step(X, T), plain.step(X, T)
    np.testing.assert_allclose(done.loss, expected.loss, rtol=1e-13)
    for key, grad in expected.grads.items():
        np.testing.assert_allclose(done.grads[key], grad, rtol=0, atol=1e-11 * np.abs(grad).max())


def test_threads_and_processes_compute_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    threads, processes = (
        network(monkeypatch, "cnn8", LIMIT, workers=kind, threads=2) for kind in ("threads", "processes")
    )
    assert cut_calls(network(monkeypatch, "cnn8", None, workers="threads", threads=2), processes)
    assert same_bits(threads, processes)
