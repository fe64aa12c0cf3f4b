"""What tests on a GPU compare holds on the stand-in for one: compiled cases, and trainings that change the device."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.contract import of_node
from support.fake_card import FakeCardBackend
from support.kernels.executor import COMPILER, NO_COMPILER
from support.node_cases import NODES
from support.on_device import compiled_case, trained_in_turns

from nl_nodes import Device
from nl_nodes.device import backends

pytestmark = pytest.mark.skipif(COMPILER is None, reason=NO_COMPILER)

CPU = Device(dtype="float64", threads=1)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Device:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(backends(), "fake", FakeCardBackend())
    return Device("fake", dtype="float64")


@pytest.mark.parametrize("name", ["Affine", "Normalize", "IndexMask"])
def test_a_compiled_case_is_the_cpus(card: Device, name: str) -> None:
    subject = of_node(next(iter(NODES[name].cases())))
    expected, found = (compiled_case(subject, device) for device in (CPU, card))
    assert found.keys() == expected.keys()
    for key, array in found.items():
        np.testing.assert_allclose(array, expected[key], rtol=1e-12, atol=1e-14)


def test_a_training_moves_between_devices(card: Device, tmp_path: Path) -> None:
    metrics, state = trained_in_turns([(CPU, None)], tmp_path / "whole")
    found_metrics, found = trained_in_turns([(card, 2), (CPU, 4), (card, None)], tmp_path / "moved")
    assert found_metrics == [pytest.approx(epoch, rel=1e-8) for epoch in metrics]
    for key, value in state.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-7, atol=1e-10)
