"""The summary of a network: each layer's output, parameters, operations and bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from nl_nodes import Device, Graph, Parameter
from nl_nodes.arguments import COUNT
from nl_nodes.compiler import RULES, CompileSpec, Row, count_costs, rewrite
from nl_nodes.graph import topological_order
from nl_nodes.typing import Shape

if TYPE_CHECKING:
    from nl_models.network import Network

HEADERS = ("FLOP", "bytes")
DIRECTIONS = ("forward", "backward")


@dataclass(frozen=True)
class Cost:
    """Floating-point operations, and bytes read and written, in one direction."""

    flops: int = 0
    bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.bytes + other.bytes)


Costs = Mapping[str, Cost]
"""The cost of each direction, "forward" and "backward"."""


@dataclass(frozen=True)
class LayerSummary:
    """One layer, or the loss, in a training step.

    Attributes:
        name: class and number, after those of the layer that it is in: "Residual 2/Convolution 3".
        output: shape of the output.
        parameters: number of parameters.
        reference: costs node by node.
        compiled: costs in the compiled graph, in which the first nodes of a layer may be fused with the layer before.
    """

    name: str
    output: Shape
    parameters: int
    reference: Costs
    compiled: Costs


@dataclass(frozen=True, repr=False)
class Summary:
    """The layers of a network in a training step on one worker; `str` gives a table.

    Operations count 2 m n k for a matrix product and one per element for every other call. Bytes are those that calls
    read and write, cached or not.

    Attributes:
        title: network and batch.
        layers: the layers in order, and the loss.
    """

    title: str
    layers: tuple[LayerSummary, ...]

    @property
    def total(self) -> LayerSummary:
        """The sums over all layers."""
        graphs = [_sums([getattr(layer, name) for layer in self.layers]) for name in ("reference", "compiled")]
        return LayerSummary("total", (), sum(layer.parameters for layer in self.layers), *graphs)

    def __str__(self) -> str:
        heads = [f"{graph} {way}" for graph in ("reference", "compiled") for way in DIRECTIONS]
        rows = [["", "", "", *(text for head in heads for text in (head, ""))]]
        rows.append(["layer", "output", "parameters", *HEADERS * 4])
        rows += [_cells(layer) for layer in (*self.layers, self.total)]
        widths = [max(len(row[i]) for row in rows[1:]) for i in range(len(rows[1]))]
        for i in range(3, len(widths), 2):  # a heading spans two columns
            widths[i + 1] = max(widths[i + 1], len(rows[0][i]) - widths[i] - 2)
        spanning = [*widths[:3], *(widths[i] + widths[i + 1] + 2 for i in range(3, len(widths), 2))]
        lines = [self.title, "  ".join(text.rjust(n) for text, n in zip(["", "", "", *heads], spanning, strict=True))]
        for row in rows[1:]:
            text = [
                cell.ljust(n) if i < 2 else cell.rjust(n) for i, (cell, n) in enumerate(zip(row, widths, strict=True))
            ]
            lines.append("  ".join(text).rstrip())
        rule = "-" * max(map(len, lines))
        return "\n".join([lines[0], rule, *lines[1:3], rule, *lines[3:-1], rule, lines[-1]])

    __repr__ = __str__


def summarise(net: Network, batch: int) -> Summary:
    """Return the summary of a network for a training step on `batch` images; nothing is run."""
    COUNT.check("summary", batch=batch)
    if net.device.name != "cpu":
        net = net.on(Device(dtype=net.device.dtype))
    graph = net.wire(batch, train=True)
    spec = CompileSpec({"x": ((batch, *net.input_shape), net.device.dtype), "t": ((batch,), "int64")}, gradients={})
    reference, compiled = (_by_layer(count_costs(g, spec)) for g in (graph, rewrite(graph, RULES)))
    nothing = dict.fromkeys(DIRECTIONS, Cost())
    layers = tuple(
        LayerSummary(name, output, parameters, reference.get(name, nothing), compiled.get(name, nothing))
        for name, (output, parameters) in _outputs(graph).items()
    )
    return Summary(f"{net!r}, a training step on a batch of {batch}, {net.device.dtype}", layers)


def _outputs(graph: Graph) -> dict[str, tuple[Shape, int]]:
    """Return the output shape and the number of parameters of each layer, in the order of their outputs."""
    outputs: dict[str, Shape] = {}
    parameters: dict[str, set[Parameter]] = {}
    for node in topological_order(graph.outputs):  # without the updates of running statistics
        if node.path:
            outputs.pop(node.path, None)
            outputs[node.path] = node.shape or ()
            parameters.setdefault(node.path, set()).update(n for n in node.inputs if isinstance(n, Parameter))
    counts = {path: sum(prod(leaf.value.shape) for leaf in leaves) for path, leaves in parameters.items()}
    return {path: (output, counts[path]) for path, output in outputs.items()}


def _by_layer(rows: Sequence[Row]) -> dict[str, dict[str, Cost]]:
    layers: dict[str, dict[str, Cost]] = {}
    for row in rows:
        of_layer = layers.setdefault(row.path.rpartition("/")[0], dict.fromkeys(DIRECTIONS, Cost()))
        of_layer[row.direction] += Cost(row.flops, row.bytes)
    return layers


def _sums(costs: Sequence[Costs]) -> dict[str, Cost]:
    return {way: sum((cost[way] for cost in costs), Cost()) for way in DIRECTIONS}


def _cells(layer: LayerSummary) -> list[str]:
    costs = [graph[way] for graph in (layer.reference, layer.compiled) for way in DIRECTIONS]
    numbers = [text for cost in costs for text in (short(cost.flops), short(cost.bytes))]
    return [layer.name, " x ".join(map(str, layer.output)), f"{layer.parameters:,}", *numbers]


def short(count: int) -> str:
    """Format a count with three digits.

    >>> short(950), short(1_234_567)
    ('950', '1.23M')
    """
    for power, letter in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if count >= 10**power:
            return f"{count / 10**power:.3g}{letter}"
    return str(count)
