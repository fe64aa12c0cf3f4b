"""`verify=strict` accepts correct networks on every executor, in this process, so that mutation tests can use it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nl_layers.optimizers import Adam, AdamW, Nesterov, Optimizer
from nl_layers.schedules import Cosine, Schedule, Step
from nl_models import ConvSpec, DenseSpec
from nl_models.builder import Architecture, Options, PoolSpec, assemble
from nl_nodes import Device
from nl_training.data import Split
from nl_training.verification import Training, verify

DEVICES: dict[str, dict[str, Any]] = {
    "reference": {"compile": False},
    "two threads": {"threads": 2, "workers": "threads"},
    "two processes": {"threads": 2, "workers": "processes"},
}
MAPS: Architecture = [ConvSpec(8), ConvSpec(8), PoolSpec(), DenseSpec(5)]
FORMS: dict[str, tuple[Architecture, dict[str, Any], Optimizer, Schedule]] = {
    "rows": ([DenseSpec(5), DenseSpec(5)], {}, Adam(), Cosine()),
    "maps": (MAPS, {}, Nesterov(), Step(every=1, gamma=0.5)),
    "normalised": (MAPS, {"batch_norm": True, "dropout": 0.3}, AdamW(), Cosine(warmup=0.5)),
}
TRIED = [
    ("rows", "reference"),
    ("rows", "two processes"),
    ("normalised", "reference"),
    ("maps", "two threads"),
    ("normalised", "two processes"),
]


@pytest.mark.parametrize(("form", "device"), TRIED)
def test_correct_network_is_accepted(form: str, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    plan, options, optimizer, schedule = FORMS[form]
    net = assemble(form, plan, Options((1, 7, 7), 3, **options), Device(**DEVICES[device]), {})
    rng = np.random.default_rng(1)
    train = Split(rng.standard_normal((9, *net.input_shape)), rng.integers(0, net.classes, 9))
    training = Training(train, frozenset({12, 5}), frozenset({6}), 3.5, optimizer, schedule, weight_decay=0.01)
    outcome = verify(net, "strict", float("inf"), training=training)
    assert outcome.certificate is not None
    assert outcome.certificate.status == "verified"
