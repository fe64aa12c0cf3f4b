"""Barriers of compiled networks: between two of them no worker touches what another writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from nl_models import build
from nl_nodes import Device


def rounds_of(calls: Sequence[tuple[str, tuple[Any, ...]]]) -> list[list[tuple[Any, list[Any]]]]:
    """Return for each round the array that each call writes, and all its arrays."""
    found: list[list[tuple[Any, list[Any]]]] = [[]]
    for name, args in calls:
        if name == "barrier":
            found.append([])
            continue
        written = args[0] if name == "copyto" else args[3] if name.endswith(".reduce") else args[-1]
        found[-1].append((written, [a for a in args if isinstance(a, np.ndarray)]))
    return found


@pytest.mark.parametrize("options", [{"name": "mlp", "hidden": (9, 8)}, {"name": "cnn3", "width": 8}])
def test_between_two_barriers_no_worker_touches_what_another_writes(options: dict[str, Any]) -> None:
    net = build(input_shape=(1, 8, 8), classes=3, batch_norm=True, dropout=0.3, device=DEVICE, **options)
    lists = net.plan(True, 6).calls
    one, other = map(rounds_of, lists)
    assert len(one) == len(other) > 2
    for round_, other_round in zip(one, other, strict=True):
        for a, b in ((round_, other_round), (other_round, round_)):
            touched = [array for _, arrays in b for array in arrays]
            assert not any(np.shares_memory(written, array) for written, _ in a for array in touched)


DEVICE = Device(threads=2, workers="threads")
