"""The profile of a network: exact counts for every computing node, and unchanged results."""

import numpy as np
import pytest

from nl_models import Network, build
from nl_nodes import Device
from nl_nodes.compiler import Plan, Row, profile, profile_reference
from nl_nodes.node import assign_scope
from nl_nodes.nodes import Leaf
from nl_nodes.verify import fingerprint

N, WIDTH = 6, 32
TEAMS = [("threads", 1), ("threads", 2), ("processes", 2)]
rng = np.random.default_rng(0)
X, T = rng.standard_normal((N, 1, 28, 28)).astype("float32"), rng.integers(0, 10, N)
FEEDS = {"x": X, "t": T}


def network(**device) -> Network:
    return build("cnn8", width=WIDTH, batch_norm=True, dropout=0.4, device=Device(**device))


def profiled(plan: Plan) -> list[Row]:
    return profile(plan, FEEDS, pass_index=2, repeats=2)


@pytest.fixture(params=TEAMS, ids=lambda executor: f"{executor[1]} {executor[0]}")
def plan(request) -> Plan:
    workers, threads = request.param
    return network(workers=workers, threads=threads).plan(True, N)


def row_of(rows: list[Row], path: str, direction: str) -> Row:
    (found,) = (row for row in rows if (row.path, row.direction) == (path, direction))
    return found


def test_every_computing_node_has_a_row_with_its_layers_path(plan: Plan) -> None:
    rows = profiled(plan)
    busy = {owner for owners in plan.owners for owner in owners}
    assert len(rows) == len(busy)
    assert len({(row.path, row.direction) for row in rows}) == len(rows)
    for node, direction in busy:
        kind = "Total" if node is None else type(node).__name__
        whose = [row for row in rows if row.kind == kind and row.direction == direction]
        assert any(row.path.startswith("gradients" if node is None else f"{node.path}/{kind}") for row in whose)
    layers = {node.path for node in plan.graph.order if not isinstance(node, Leaf)}
    kinds = {1: ["Convolution", "BatchNormalization"], 7: ["Affine", "Dropout"], 8: ["Affine"]}
    assert layers >= {f"{kind} {number}" for number, found in kinds.items() for kind in found} | {"SoftmaxWithLoss"}
    assert sum(row.calls for row in rows) == sum(map(len, plan.calls))
    assert all(np.isfinite(row.seconds) and row.seconds >= 0 for row in rows)


def test_operations_of_convolution_and_affine_match_the_formula(plan: Plan) -> None:
    rows = profiled(plan)
    k, taps, pixels = WIDTH // 4, 9, 28 * 28
    product = 2 * N * pixels * taps * k
    assert row_of(rows, "Convolution 1/Conv", "forward").flops == product
    # Only the weights' gradient, as the images need none: products for the 28 rows of each worker, and their sum.
    assert row_of(rows, "Convolution 1/Conv", "backward").flops == product + len(plan.calls) * 28 * taps * k
    inputs, outputs = 50, 10
    product = 2 * N * inputs * outputs
    assert row_of(rows, "Affine 8/Affine", "forward").flops == product + N * outputs
    sums = 2 * N * outputs  # matrix products with ones
    assert row_of(rows, "Affine 8/Affine", "backward").flops == 2 * product + sums


def test_bytes_are_counted_as_read_and_written(plan: Plan) -> None:
    rows = profiled(plan)
    for direction in ("forward", "backward"):
        assert row_of(rows, "Dropout 7/MulConst", direction).bytes == 2 * N * 50 * 4
    # The images copied into padding; the mask: 8-byte words compared with a number, a byte each, and one number each.
    assert row_of(rows, "Convolution 1/ZeroPad", "forward").bytes == 2 * X.nbytes
    assert row_of(rows, "Dropout 7/IndexMask", "backward").bytes == N * 50 * (4 + 1 + 4)


def test_row_names_the_convolution_algorithm(plan: Plan) -> None:
    algorithms = {row.path: row.algorithm for row in profiled(plan)}
    assert algorithms["Convolution 1/Conv"] == "MEC"
    assert algorithms["Convolution 2/Conv"] == "winograd 4x4"
    assert algorithms["Affine 7/Affine"] == ""


def test_profiling_changes_no_result(plan: Plan) -> None:
    def bits() -> list[np.ndarray]:
        return [array.copy() for array in (*plan.run(FEEDS, 2), *plan.grads.values())]

    before = bits()
    profiled(plan)
    for one, two in zip(before[-len(plan.grads) :], plan.grads.values(), strict=True):
        np.testing.assert_array_equal(one, two)
    for one, two in zip(before, bits(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_reference_is_profiled_too() -> None:
    graph = network(compile=False).wire(N, train=True)
    rows = profile_reference(graph, FEEDS, repeats=1)
    forward = [row for row in rows if row.direction == "forward"]
    assert len(forward) == sum(not isinstance(node, Leaf) for node in graph.order)
    assert {row.path.partition("/")[0] for row in rows} >= {"Convolution 1", "Relu 1", "Pooling 2", "SoftmaxWithLoss"}
    assert row_of(rows, "Convolution 1/Dot", "forward").flops == 2 * N * 28 * 28 * 9 * (WIDTH // 4)
    assert row_of(rows, "Affine 8/Dot", "backward").flops == 2 * 2 * N * 50 * 10
    # Zeros, then each gradient selected by its mask: three arrays of numbers and one of bytes.
    assert row_of(rows, "Relu 7/ValueMask", "backward").bytes == N * 50 * (4 + 4 + 4 + 1)


def test_paths_do_not_change_the_fingerprint() -> None:
    graph = network(compile=False).wire(N, train=True)
    before = fingerprint(graph)
    for node in graph.order:
        node.path = ""
    assert fingerprint(graph) == before
    assign_scope(graph.outputs, "all")
    assign_scope(graph.outputs, "nothing is claimed twice")
    assert {node.path for node in graph.order if node.inputs} == {"all", ""}  # "": running statistics
