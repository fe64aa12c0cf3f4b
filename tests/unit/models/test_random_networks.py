"""Random networks compiled and by the reference; `nox -s gradient -- --thorough` compares 300 others."""

from collections.abc import Iterator

import numpy as np
import pytest
from support.random_networks import ResidualStack, compare, random_case, random_network

from nl_nodes import Device, Graph, IndexMask, Max, Node, Tanh
from nl_nodes.compiler import RULES, rewrite
from nl_nodes.compiler.fused import Affine, Conv, Normalize, Pool
from nl_nodes.compiler.fused.conv.filter_parallel import prefers_filter_parallel
from nl_nodes.compiler.fused.conv.mec import FEW_CHANNELS
from nl_nodes.compiler.fused.conv.node import winograd_spec
from nl_nodes.context import WorkerGroup

SEEDS = range(30)


@pytest.mark.parametrize("seed", SEEDS)
def test_compiled_random_network_matches_the_reference(seed: int) -> None:
    compare(seed, quick=True)


@pytest.mark.parametrize("seed", range(8))
def test_compiled_random_residual_network_matches_the_reference(seed: int) -> None:
    compare(seed, quick=True, kind=ResidualStack)


def test_random_networks_cover_every_fused_form() -> None:
    found = {algorithm for seed in SEEDS for node in rewrite(to_train(seed), RULES).order for algorithm in ways(node)}
    convolutions = {
        "winograd 4x4",
        "9 products for 2x2",
        "shared kernels",
        "few channels",
        "many channels",
        "stride 1",
        "stride 2",
        "stride 3",
    }
    kernels = {"1x1", "2x3", "3x3", "5x5", "7x7"}
    epilogue = {f"{kind}, {what}" for kind in ("Conv", "Normalize") for what in ("relu", "pool", "out_pad")}
    others = {"Pool", "Affine of maps", "Affine of rows", "Affine, relu", "Max", "IndexMask", "Tanh"}
    assert found == convolutions | kernels | epilogue | others


def to_train(seed: int) -> Graph:
    key, batches = random_case(seed)
    return random_network(key, Device(dtype="float64")).wire(len(batches[0][0]), train=True)


def ways(node: Node) -> Iterator[str]:
    """Return descriptions of a rewritten graph's node."""
    kind = type(node).__name__
    if isinstance(node, Conv):
        w = node.inputs[1].shape
        spec = winograd_spec(node.size, w, node.pad, node.stride)
        if spec and prefers_filter_parallel(spec, node.inputs[0].shape, node.outputs(w), WorkerGroup(np)):
            yield "shared kernels"
        yield spec.name if spec else f"{'few' if w[1] <= FEW_CHANNELS else 'many'} channels"
        yield f"stride {node.stride}"
        yield f"{w[2]}x{w[3]}"
    if isinstance(node, Conv | Normalize):
        yield from (f"{kind}, {what}" for what in ("relu", "pool") if getattr(node, what))
        if any(node.out_pad):
            yield f"{kind}, out_pad"
    if isinstance(node, Affine):
        yield f"Affine of {'maps' if len(node.inputs[0].shape) == 4 else 'rows'}"
        if node.relu:
            yield "Affine, relu"
    if isinstance(node, Pool | IndexMask | Tanh) or (isinstance(node, Max) and node.axis == 4):
        yield kind
