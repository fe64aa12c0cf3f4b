"""What is drawn: a graph as it is defined and as it is compiled, their nodes with their facts, in groups by layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from nl_nodes.compiler import Row
from nl_training.viz.graph.node_info import Formula, Statistics


@dataclass(frozen=True)
class NodeView:
    """One node as it is drawn.

    Attributes:
        label: its kind, a leaf's name, and the number that it holds if it is one.
        family: the file of its class, such as "arithmetic", or "fused".
        bytes: what its value takes.
        inputs: the numbers of the spots whose outputs it takes.
        kin: the spots of the other graph that it is made of, or became.
        stored: the name of the buffer that takes its value after the pass, or "".
        needs: whether a gradient flows through it.
        unmoved: why there is no gradient, where there is none.
        residual: what the certificate says of its gradient, or "".
        costs: what it takes in each direction, where it takes anything.
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
    needs: bool
    value: Statistics | None
    gradient: Statistics | None
    unmoved: str
    residual: str
    costs: tuple[Row, ...]

    @property
    def seconds(self) -> float:
        """Its time in both directions."""
        return sum(row.seconds for row in self.costs)


@dataclass(frozen=True)
class Group:
    """The spots of one layer in one of the graphs, by number, and the one whose output is the layer's."""

    half: str
    title: str
    summary: str
    spots: tuple[int, ...]
    output: int
    parameters: int


@dataclass(frozen=True)
class GraphView:
    """One of the two graphs: what it is called, how many nodes it has, and how long a step takes."""

    name: str
    nodes: int
    seconds: float


@dataclass(frozen=True)
class Sketch:
    """Two graphs, ready to be drawn: every spot in exactly one group, each group fed by the one before it."""

    title: str
    lines: tuple[str, ...]
    halves: tuple[GraphView, ...]
    spots: tuple[NodeView, ...]
    groups: tuple[Group, ...]

    def of(self, half: GraphView) -> list[int]:
        """The numbers of one half's groups."""
        return [number for number, group in enumerate(self.groups) if group.half == half.name]

    def seconds(self, group: Group) -> float:
        """The time of all that a group holds."""
        return sum(self.spots[n].seconds for n in group.spots)

    @cached_property
    def shares(self) -> dict[int, float]:
        """The time of each spot, as a part of the slowest one's of its graph."""
        found = {}
        for half in self.halves:
            own = [n for number in self.of(half) for n in self.groups[number].spots]
            most = max(self.spots[n].seconds for n in own)
            found.update({n: self.spots[n].seconds / most for n in own})
        return found
