"""A training on the stand-in for a GPU has the CPU's losses and weights, also over a batch that is not finite."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from support.fake_card import FakeCardBackend
from support.kernels.executor import COMPILER, NO_COMPILER

from nl_layers.optimizers import AdamW
from nl_layers.schedules import Cosine
from nl_models import build
from nl_nodes import Device
from nl_nodes.device import backends
from nl_training.data import Split, load
from nl_training.training.trainer import Trainer, TrainOptions

pytestmark = pytest.mark.skipif(COMPILER is None, reason=NO_COMPILER)


def test_a_training_is_the_cpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(backends(), "fake", FakeCardBackend())
    data = load("digits")
    x = data.train.x[:130].copy()
    x[7] = np.nan
    data = dataclasses.replace(data, train=Split(x, data.train.t[:130]))  # a last batch of 30
    found = []
    for device in (Device(dtype="float64", threads=1), Device("fake", dtype="float64")):
        net = build("mlp", input_shape=data.input_shape, width=16, batch_norm=True, dropout=0.2, device=device)
        options = TrainOptions(epochs=2, batch_size=50, on_nan="skip")
        with np.errstate(all="ignore"):
            result = Trainer(net, AdamW(0.01), Cosine(), data, options, weight_decay=1e-3).run()
        found.append((result.history[-1].metrics, net.state_dict()))
    (metrics, state), (found_metrics, found_state) = found
    assert found_metrics == pytest.approx(metrics, rel=1e-8)
    for key, value in state.items():
        np.testing.assert_allclose(found_state[key], value, rtol=1e-7, atol=1e-10)
