"""Conversion of graphs to view models: a group per layer, a view per node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from nl_layers.module import Module
from nl_nodes import Graph, Leaf, Node, Parameter
from nl_nodes.compiler import Provenance, Row
from nl_nodes.compiler.profiler import names
from nl_nodes.shapes import size
from nl_nodes.typing import Shape
from nl_nodes.verify import Certificate
from nl_training.viz.graph.diagram import GraphView, Group, NodeView
from nl_training.viz.graph.node_info import formula, included_gradients, observe, statistics, summary

# Modules of node classes that have a colour of their own.
FAMILIES = ("leaves", "arithmetic", "functions", "images", "labels", "masks", "products", "reductions", "structure")
FUSED = "nl_nodes.compiler.fused"


@dataclass(frozen=True)
class LayerNodes:
    """Nodes of a layer, and the one that gives the layer's output."""

    title: str
    nodes: list[Node]
    output: Node


@dataclass
class CapturedGraph:
    """A graph with its measurements.

    Attributes:
        name: "reference" or "compiled".
        title: title of the group of nodes without a layer.
        rows: profile of the nodes.
        certificate: certificate of the gradients, if any.
        certified: name of the graph that was certified.
        first: number of the first node.
    """

    name: str
    title: str
    graph: Graph
    rows: Sequence[Row]
    certificate: Certificate | None
    certified: str
    first: int = 0

    @cached_property
    def layers(self) -> list[LayerNodes]:
        """Nodes by layer, in the order of the layers; those inside others, which may branch, are of the outer layer."""
        order = self.graph.order
        layer_of = {node: node.path.partition("/")[0] or self.title for node in order if node.inputs}
        for node in order:
            for n in node.inputs:
                layer_of.setdefault(n, layer_of[node])  # a leaf belongs to its first consumer
        used = {n for node in order for n in node.inputs if layer_of[n] != layer_of[node]} | {self.graph.outputs[0]}
        nodes: dict[str, list[Node]] = {}
        for node in order:
            nodes.setdefault(layer_of[node], []).append(node)
        layers = [LayerNodes(title, own, [n for n in own if n in used][-1]) for title, own in nodes.items()]
        index = {node: i for i, node in enumerate(order)}
        return sorted(layers, key=lambda layer: index[layer.output])

    @cached_property
    def numbers(self) -> dict[Node, int]:
        """Number of each node in the diagram."""
        nodes = [node for layer in self.layers for node in layer.nodes]
        return {node: self.first + i for i, node in enumerate(nodes)}

    @property
    def view(self) -> GraphView:
        """Name, size and step time."""
        return GraphView(self.name, len(self.numbers), sum(row.seconds for row in self.rows))

    def groups(self) -> list[Group]:
        """Return a group for each layer."""
        return [
            Group(
                graph=self.name,
                title=layer.title,
                summary=_layer_summary(layer.title),
                nodes=tuple(self.numbers[node] for node in layer.nodes),
                output=self.numbers[layer.output],
                parameters=sum(size(node.value.shape) for node in layer.nodes if isinstance(node, Parameter)),
            )
            for layer in self.layers
        ]

    def node_views(self, feeds: Mapping[str, Any], dy: Any, related: Mapping[Node, Sequence[int]]) -> list[NodeView]:
        """Run the graph and return a view of each node.

        Args:
            feeds: arrays for the graph's inputs.
            dy: upstream gradient of its first output.
            related: numbers of the nodes of the other graph that each node was made from or became.
        """
        values, gradients = observe(self.graph, feeds, dy)
        included = included_gradients(self.graph)
        found = []
        for node, view in self.outline({node: tuple(value.shape) for node, value in values.items()}).items():
            no_gradient = "" if node in gradients else _no_gradient(view.needs_grad, node in included)
            measured = replace(
                view,
                bytes=int(values[node].nbytes),
                related=tuple(related[node]),
                value=statistics(values[node]),
                gradient=statistics(gradients[node]) if node in gradients else None,
                no_gradient=no_gradient,
            )
            found.append(measured)
        return found

    def outline(self, shapes: Mapping[Node, Shape]) -> dict[Node, NodeView]:
        """Return a view of each node without running the graph.

        Args:
            shapes: the shape of each node.
        """
        costs, residuals = self._costs(), self._residuals()
        stored = {node: buffer.name for buffer, node in self.graph.updates.items()}
        found = {}
        for node in self.numbers:
            kind, attributes = type(node), _attributes(node)
            found[node] = NodeView(
                kind=kind.__name__,
                label=_label(node, attributes),
                family=family(kind),
                shape=shapes[node],
                bytes=0,
                inputs=tuple(self.numbers[n] for n in node.inputs),
                related=(),
                attributes=attributes,
                formula=formula(kind),
                stored=stored.get(node, ""),
                needs_grad=node in self.graph.needs,
                value=None,
                gradient=None,
                no_gradient="",
                residual=residuals.get(node.name, "") if isinstance(node, Leaf) else "",
                costs=tuple(costs[node]),
            )
        return found

    def _costs(self) -> dict[Node, list[Row]]:
        """Return the profile rows of each node."""
        paths = names(self.graph)
        return {node: [row for row in self.rows if row.path == paths[node]] for node in self.graph.order}

    def _residuals(self) -> dict[str, str]:
        """Return the certificate's verdict on each leaf."""
        verdicts = () if self.certificate is None else self.certificate.tensors
        of = "" if self.certified == self.name else f" in the {self.certified} graph"
        return {v.name: f"{v.verdict}{of}, residual {v.residual:.1e}" for v in verdicts}


def related_nodes(
    reference: CapturedGraph, compiled: CapturedGraph, provenance: Provenance
) -> tuple[dict[Node, list[int]], dict[Node, list[int]]]:
    """Return, for each node, the numbers of the related nodes in the other graph: reference, then compiled."""
    became: dict[Node, list[int]] = {node: [] for node in reference.numbers}
    made_of = {node: sorted(reference.numbers[n] for n in provenance.of(node)) for node in compiled.numbers}
    for node, number in compiled.numbers.items():
        for n in provenance.of(node):
            became[n].append(number)
    return became, made_of


def family(kind: type[Node]) -> str:
    """Return the colour family of a node class: its module, "fused" for nodes of the compiler, or "other"."""
    if kind.__module__.startswith(FUSED):
        return "fused"
    name = kind.__module__.rpartition(".")[2]
    return name if name in FAMILIES else "other"


def _layer_summary(title: str) -> str:
    """Return the docstring summary of the layer that a group is named after."""
    kind = Module.registry.get(title.partition(" ")[0])
    return summary(kind) if kind else ""


def _no_gradient(needs_grad: bool, is_included: bool) -> str:
    """Return why a node has no gradient."""
    if is_included:
        return "Already included in the gradient of its input."
    return "The loss does not depend on it." if needs_grad else "Not required."


def _label(node: Node, attributes: Mapping[str, str]) -> str:
    if isinstance(node, Leaf):
        return node.name
    kind = type(node).__name__
    if kind in ("MulConst", "AddConst", "Power"):
        return f"{kind} {next(iter(attributes.values()))}"
    return "+".join([kind, *(name for name in ("pool", "relu") if getattr(node, name, False))])


def _attributes(node: Node) -> dict[str, str]:
    if isinstance(node, Leaf):
        return {}
    found = {name: _short(value) for name, value in node.attributes.items()}
    inner = node.path.partition("/")[2]
    return {**found, "layer": inner} if inner else found


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
