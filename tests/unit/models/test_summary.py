"""The summary's numbers are those of the formulas, and those of a profiled step."""

from __future__ import annotations

import numpy as np
from support.assertions import refused

from nl_layers import Dropout, Relu
from nl_models import DenseSpec, Network, Sequential, cnn3
from nl_nodes import Device
from nl_nodes.compiler import Row, profile, profile_reference

BATCH = 6


def sums(rows: list[Row], direction: str) -> tuple[int, int]:
    chosen = [row for row in rows if row.direction == direction]
    return sum(row.flops for row in chosen), sum(row.bytes for row in chosen)


def net() -> Network:
    return cnn3(width=8, batch_norm=True, dropout=0.5, device=Device(threads=1, workers="threads"))


def test_each_layer_has_its_output_and_parameters_in_order() -> None:
    rows = {row.name: row for row in net().summary(BATCH).layers}
    assert list(rows) == [
        *["Convolution 1", "BatchNormalization 1", "Relu 1", "Pooling 1"],
        *["Affine 2", "Relu 2", "Dropout 2", "Affine 3", "SoftmaxWithLoss"],
    ]
    assert [rows[n].output for n in ("BatchNormalization 1", "Pooling 1", "Affine 3", "SoftmaxWithLoss")] == [
        *[(BATCH, 4, 24, 24), (BATCH, 4, 12, 12), (BATCH, 10), ()]
    ]
    assert {name: row.parameters for name, row in rows.items() if row.parameters} == {
        "Convolution 1": 4 * 25, "BatchNormalization 1": 8, "Affine 2": 576 * 100 + 100, "Affine 3": 1010,
    }  # fmt: skip


def test_a_matrix_product_counts_two_operations_a_weight_and_sample() -> None:
    only = Sequential([DenseSpec(5, bias=False)], (7,)).summary(BATCH).layers[0]
    for costs in (only.reference, only.compiled):
        assert costs["forward"].flops == 2 * 7 * 5 * BATCH
        assert costs["backward"].flops == 2 * 7 * 5 * BATCH  # the input needs no gradient


def test_layers_of_one_class_and_number_have_rows_of_their_own() -> None:
    layers = Sequential([DenseSpec(5), Relu(), Dropout(0.5), Relu(), DenseSpec(3)], (4,)).summary(BATCH).layers
    assert [row.name for row in layers] == [
        "Affine 1",
        "Relu 1",
        "Dropout 1",
        "Relu 1.2",
        "Affine 2",
        "SoftmaxWithLoss",
    ]
    assert layers[1].reference == layers[3].reference


def test_totals_are_those_of_profiled_steps() -> None:
    own = net()
    total = own.summary(BATCH).total
    feeds = {"x": np.ones((BATCH, 1, 28, 28), "float32"), "t": np.arange(BATCH)}
    with own.device.limits():
        compiled = profile(own.plan(True, BATCH), feeds, repeats=1)
    reference = profile_reference(own.wire(BATCH, train=True), feeds, repeats=1)
    for costs, rows in ((total.reference, reference), (total.compiled, compiled)):
        for direction, cost in costs.items():
            assert (cost.flops, cost.bytes) == sums(rows, direction), direction


def test_it_prints_a_table_and_refuses_a_batch_of_no_images() -> None:
    lines = str(net().summary(BATCH)).splitlines()
    assert lines[0].startswith("cnn3(input (1, 28, 28)")
    assert next(line for line in lines if line.startswith("Affine 2")).split()[2:6] == ["6", "x", "100", "57,700"]
    assert len({len(line) for line in lines if line.startswith("---")}) == 1
    with refused("batch must be a whole number, 1 or more, got 0"):
        net().summary(0)
