"""The certificate of a network on the stand-in for a GPU, and errors planted there that `verify=strict` refuses."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.assertions import refused
from support.fake_card import FakeCard, FakeCardBackend
from support.fake_device import FakeArray
from support.kernels.executor import COMPILER, NO_COMPILER

from nl_layers.optimizers import SGD
from nl_layers.schedules import Constant
from nl_models import Network, build
from nl_nodes import Device
from nl_nodes.device import backends
from nl_nodes.verify import Link
from nl_training.data import Split
from nl_training.verification import Chain, Training, verify

pytestmark = pytest.mark.skipif(COMPILER is None, reason=NO_COMPILER)

STORE = re.compile(r"(p\d+\[a\d+\] = )(v\d+);")


class WrongKernel(FakeCard):
    """A card on which the first kernel of a training pass that stores a number stores it times a factor in C."""

    factor = ""

    def load(self, sources: Sequence[Any]) -> dict[str, Any]:
        sources = list(sources)
        if self.factor and len(sources) > 5:
            number, text = next((n, text) for n, s in enumerate(sources) if (text := self._wrong(s.text)) != s.text)
            sources[number] = replace(sources[number], text=text)
        return super().load(sources)

    def _wrong(self, text: str) -> str:
        for match in STORE.finditer(text):
            if re.search(rf"const (float|double) {match[2]} ", text):
                changed = f"{text[: match.start()]}{match[1]}{match[2]} * ({self.factor});{text[match.end() :]}"
                return changed.replace("{", "{ static int calls;", 1)
        return text


class WrongGraph(FakeCard):
    """A card whose graphs do one thing more than the launches that were captured."""

    def __init__(self) -> None:
        super().__init__()
        self.more: Callable[[], None] = lambda: None

    def capture(self, run: Callable[[], None]) -> Any:
        return [*super().capture(run), lambda: self.more()]


class Backend(FakeCardBackend):
    def __init__(self, card: FakeCard) -> None:
        self._card = card


def on(card: FakeCard, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dtype: str = "float32") -> Network:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(backends(), "fake", Backend(card))
    return build("mlp", input_shape=(1, 4, 4), hidden=(5,), classes=3, batch_norm=True, device=Device("fake", dtype))


def training() -> Training:
    rng = np.random.default_rng(1)
    train = Split(rng.standard_normal((9, 1, 4, 4)), rng.integers(0, 3, 9))
    return Training(train, frozenset({7}), frozenset({6}), 7.5, SGD(0.01), Constant(), 0.0)


def link(net: Network, kind: str) -> Link:
    """The last link of a kind."""
    links = Chain(net, 8, training()).links()
    return [check for name, check in links.items() if name.startswith(kind)][-1]()


def test_a_correct_network_is_verified_on_the_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    net = on(FakeCard(), monkeypatch, tmp_path)
    state, passes = net.state_dict(), net.passes
    outcome = verify(net, "strict", np.inf, training=training())
    certificate = outcome.certificate
    assert certificate is not None
    assert certificate.gpu == "verified: Fake sm_90 1"
    assert outcome.lines()[0].endswith("on the GPU verified: Fake sm_90 1")
    limits = [(link.point, link.limit) for link in certificate.links if link.kind == "device"]
    assert limits == [
        ("random images, Fake sm_90 1, float64", 1e-12),
        ("training images, Fake sm_90 1, float64", 1e-12),
        ("zeros and ties, Fake sm_90 1, float64", 1e-12),
        ("random images, Fake sm_90 1", 1e-3),
    ]
    assert [link.limit for link in certificate.links if link.kind == "bits"] == [0]
    assert net.passes == passes
    assert all(np.array_equal(value, state[name]) for name, value in net.state_dict().items())
    # Another GPU has links of its own.
    FakeCard.kind, kind = "Another sm_80 1", FakeCard.kind
    try:
        again = verify(net, "warn", 0.0, training=training()).certificate
    finally:
        FakeCard.kind = kind
    assert again is not None
    assert again.gpu == "not run"
    assert any(name.startswith("bits, 7 images, Another sm_80 1") for name in again.missing_links)


def test_a_wrong_value_in_one_kernel_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    card = WrongKernel()
    card.factor = "1.000001"
    net = on(card, monkeypatch, tmp_path)
    with refused("verify=strict", "device, 7 images, random images, Fake sm_90 1, float64", "limit 1e-12"):
        verify(net, "strict", np.inf, training=training())
    warned = verify(net, "warn", np.inf, training=training()).certificate
    assert warned is not None
    assert warned.gpu == "failed: Fake sm_90 1"


def test_other_bits_in_a_repeated_run_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    card = WrongKernel()
    card.factor = "calls++ % 11 ? 1.0 : 1.000000000000004"
    net = on(card, monkeypatch, tmp_path, "float64")
    assert link(net, "device").holds
    found = link(net, "bits")
    assert not found.holds
    assert found.where.endswith(" repeated")
    with refused("verify=strict", "bits, 7 images, Fake sm_90 1", "repeated"):
        verify(net, "strict", np.inf, training=training())


def test_a_graph_with_other_bits_than_its_launches_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    card = WrongGraph()
    net = on(card, monkeypatch, tmp_path, "float64")
    assert link(net, "bits").holds
    card.more = partial(_nudge, net._grads.flat)
    assert link(net, "device").holds
    found = link(net, "bits")
    assert not found.holds
    assert found.where == "b2 launched one by one"


def _nudge(array: FakeArray) -> None:
    array._data[-1] = np.nextafter(array._data[-1], 1)


@pytest.mark.parametrize(("tf32", "limit"), [(False, 1e-3), (True, 0.05)])
def test_tf32_has_a_limit_of_its_own(tf32: bool, limit: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    on(FakeCard(), monkeypatch, tmp_path)
    net = build("mlp", input_shape=(1, 4, 4), hidden=(5,), classes=3, device=Device("fake", tf32=tf32))
    assert link(net, "device").limit == limit
    assert link(net, "bits").holds
