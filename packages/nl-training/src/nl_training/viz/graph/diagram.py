"""Diagram model: the reference and the compiled graph, with data on every node, grouped by layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from nl_nodes.compiler import Row
from nl_training.viz.graph.node_info import Formula, Statistics


@dataclass(frozen=True)
class NodeView:
    """View of one node.

    Attributes:
        kind: name of its class.
        label: text in the drawing: the kind with its constant or fused operations, or a leaf's name.
        family: the module of its class, such as "arithmetic", or "fused".
        bytes: size of its value.
        inputs: numbers of its input nodes.
        related: numbers of the nodes of the other graph that it was made from or became.
        stored: name of the buffer that is set to its value after the pass, or "".
        needs_grad: whether a gradient flows through it.
        value: statistics of its value, None without a finite number.
        gradient: statistics of its gradient, None if there is none.
        no_gradient: why there is no gradient, or "".
        residual: the certificate's verdict on its gradient, or "".
        costs: profile rows, one per direction with calls.
    """

    kind: str
    label: str
    family: str
    shape: tuple[int, ...]
    bytes: int
    inputs: tuple[int, ...]
    related: tuple[int, ...]
    attributes: Mapping[str, str]
    formula: Formula
    stored: str
    needs_grad: bool
    value: Statistics | None
    gradient: Statistics | None
    no_gradient: str
    residual: str
    costs: tuple[Row, ...]

    @property
    def seconds(self) -> float:
        """Time of both directions."""
        return sum(row.seconds for row in self.costs)


@dataclass(frozen=True)
class Group:
    """Nodes of one layer in one graph, by number, and the node that gives the layer's output."""

    graph: str
    title: str
    summary: str
    nodes: tuple[int, ...]
    output: int
    parameters: int


@dataclass(frozen=True)
class GraphView:
    """Name, number of nodes and step time of one graph."""

    name: str
    node_count: int
    seconds: float


@dataclass(frozen=True)
class Diagram:
    """Two graphs with their nodes; each node is in one group, and each group takes outputs of the previous one."""

    title: str
    lines: tuple[str, ...]
    graphs: tuple[GraphView, ...]
    nodes: tuple[NodeView, ...]
    groups: tuple[Group, ...]

    def groups_of(self, graph: GraphView) -> list[int]:
        """Return the numbers of one graph's groups."""
        return [number for number, group in enumerate(self.groups) if group.graph == graph.name]

    def seconds(self, group: Group) -> float:
        """Return the time of a group's nodes."""
        return sum(self.nodes[n].seconds for n in group.nodes)

    @cached_property
    def shares(self) -> dict[int, float]:
        """Time of each node relative to the slowest node of its graph; 0 where no time was measured."""
        found = {}
        for graph in self.graphs:
            own = [n for number in self.groups_of(graph) for n in self.groups[number].nodes]
            slowest = max(self.nodes[n].seconds for n in own)
            found.update({n: self.nodes[n].seconds / slowest if slowest else 0.0 for n in own})
        return found
