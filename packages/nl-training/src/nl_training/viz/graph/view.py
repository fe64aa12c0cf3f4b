"""From a graph to what is drawn of it: a group for each layer, a spot for each node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from nl_layers.module import Module
from nl_nodes import Graph, Leaf, Node, Parameter
from nl_nodes.compiler import Provenance, Row
from nl_nodes.compiler.profiler import names
from nl_nodes.shapes import size
from nl_nodes.verify import Certificate
from nl_training.viz.graph.diagram import GraphView, Group, NodeView
from nl_training.viz.graph.node_info import carried, formula, observe, statistics, summary

# How nodes are told apart by colour: by the file that they are written in, and those that the compiler makes.
FAMILIES = ("leaves", "arithmetic", "functions", "images", "labels", "masks", "products", "reductions", "structure")
FUSED = "nl_nodes.compiler.fused"


@dataclass(frozen=True)
class Part:
    """A layer's own nodes, and the one whose output is the layer's."""

    title: str
    nodes: list[Node]
    output: Node


@dataclass
class CapturedGraph:
    """A graph that is to be drawn, and what was measured of it.

    Attributes:
        title: of what belongs to no layer.
        rows: what each node costs.
        certificate: of its gradients or of the other graph's, if any.
        certified: the name of the graph whose gradients it is of.
        first: the number of its first spot.
    """

    name: str
    title: str
    graph: Graph
    rows: Sequence[Row]
    certificate: Certificate | None
    certified: str
    first: int = 0

    @cached_property
    def parts(self) -> list[Part]:
        """The nodes by layer, in the order in which the layers follow each other."""
        order = self.graph.order
        homes = {node: node.path or self.title for node in order if node.inputs}
        for node in order:
            for n in node.inputs:
                homes.setdefault(n, homes[node])  # a leaf stands with the first that takes it
        used = {n for node in order for n in node.inputs if homes[n] != homes[node]} | {self.graph.outputs[0]}
        nodes: dict[str, list[Node]] = {}
        for node in order:
            nodes.setdefault(homes[node], []).append(node)
        parts = [Part(title, own, [n for n in own if n in used][-1]) for title, own in nodes.items()]
        places = {node: place for place, node in enumerate(order)}
        return sorted(parts, key=lambda part: places[part.output])

    @cached_property
    def numbers(self) -> dict[Node, int]:
        """The number of each node's spot."""
        nodes = [node for part in self.parts for node in part.nodes]
        return {node: self.first + i for i, node in enumerate(nodes)}

    @property
    def half(self) -> GraphView:
        """All of it, in numbers."""
        return GraphView(self.name, len(self.numbers), sum(row.seconds for row in self.rows))

    def groups(self) -> list[Group]:
        """A group for each part."""
        return [
            Group(
                half=self.name,
                title=part.title,
                summary=_layer(part.title),
                spots=tuple(self.numbers[node] for node in part.nodes),
                output=self.numbers[part.output],
                parameters=sum(size(node.value.shape) for node in part.nodes if isinstance(node, Parameter)),
            )
            for part in self.parts
        ]

    def spots(self, feeds: Mapping[str, Any], dy: Any, related: Mapping[Node, Sequence[int]]) -> list[NodeView]:
        """A spot for each node.

        Args:
            feeds: arrays for the graph's inputs.
            dy: the upstream gradient of its first output.
            kin: the spots of the other graph that each node is made of, or became.
        """
        values, gradients = observe(self.graph, feeds, dy)
        within, costs = carried(self.graph), self._costs()
        stored = {node: buffer.name for buffer, node in self.graph.updates.items()}
        residuals = self._residuals()
        found = []
        for node in self.numbers:
            kind, attributes, needs = type(node), _attributes(node), node in self.graph.needs
            spot = NodeView(
                kind=kind.__name__,
                label=_label(node, attributes),
                family=family(kind),
                shape=tuple(values[node].shape),
                bytes=int(values[node].nbytes),
                inputs=tuple(self.numbers[n] for n in node.inputs),
                related=tuple(related[node]),
                attributes=attributes,
                formula=formula(kind),
                stored=stored.get(node, ""),
                needs=needs,
                value=statistics(values[node]),
                gradient=statistics(gradients[node]) if node in gradients else None,
                unmoved="" if node in gradients else _unmoved(needs, node in within),
                residual=residuals.get(node.name, "") if isinstance(node, Leaf) else "",
                costs=tuple(costs[node]),
            )
            found.append(spot)
        return found

    def _costs(self) -> dict[Node, list[Row]]:
        """The rows of each node."""
        paths = names(self.graph)
        return {node: [row for row in self.rows if row.path == paths[node]] for node in self.graph.order}

    def _residuals(self) -> dict[str, str]:
        """What the certificate says of each leaf."""
        verdicts = () if self.certificate is None else self.certificate.tensors
        of = "" if self.certified == self.name else f" in the {self.certified} graph"
        return {v.name: f"{v.verdict}{of}, residual {v.residual:.1e}" for v in verdicts}


def related_nodes(
    reference: CapturedGraph, compiled: CapturedGraph, provenance: Provenance
) -> tuple[dict[Node, list[int]], dict[Node, list[int]]]:
    """The spots of the compiled graph that each node of the reference became, and those each is made of."""
    became: dict[Node, list[int]] = {node: [] for node in reference.numbers}
    made_of = {node: sorted(reference.numbers[n] for n in provenance.of(node)) for node in compiled.numbers}
    for node, number in compiled.numbers.items():
        for n in provenance.of(node):
            became[n].append(number)
    return became, made_of


def family(kind: type[Node]) -> str:
    """The file of a kind of node, where it is one of those with a colour; "fused" for all that the compiler makes."""
    if kind.__module__.startswith(FUSED):
        return "fused"
    name = kind.__module__.rpartition(".")[2]
    return name if name in FAMILIES else "other"


def _layer(title: str) -> str:
    """What the layer does that a part is named by."""
    kind = Module.registry.get(title.partition(" ")[0])
    return summary(kind) if kind else ""


def _unmoved(needs: bool, is_carried: bool) -> str:
    """Why there is no gradient of a node's."""
    if is_carried:
        return "Already in the gradient of what this is made of."
    return "The loss does not reach it." if needs else "None is asked for."


def _label(node: Node, attributes: Mapping[str, str]) -> str:
    if isinstance(node, Leaf):
        return node.name
    kind = type(node).__name__
    if kind in ("MulConst", "AddConst", "Power"):
        return f"{kind} {next(iter(attributes.values()))}"
    return "+".join([kind, *(name for name in ("pool", "relu") if getattr(node, name, False))])


def _attributes(node: Node) -> dict[str, str]:
    return {} if isinstance(node, Leaf) else {name: _short(value) for name, value in node.attributes.items()}


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
