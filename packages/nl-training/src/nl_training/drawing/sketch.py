"""What is drawn of a graph: its nodes with their facts, in a group for each layer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nl_layers import Mode
from nl_layers.layer import Wired
from nl_models import Network, build
from nl_nodes import Device, Graph, Input, Leaf, Node, Parameter, UserError
from nl_nodes.axes import size
from nl_nodes.graph import topological_order
from nl_nodes.verify import Certificate, certify, draw, upstream
from nl_training.config.resolve import near
from nl_training.drawing.facts import Formula, Statistics, formula, observe, statistics, summary

# How nodes are told apart by colour: by the file that they are written in.
FAMILIES = ("leaves", "arithmetic", "functions", "images", "labels", "masks", "products", "reductions", "structure")


@dataclass(frozen=True)
class Spot:
    """One node as it is drawn.

    Attributes:
        label: its kind, a leaf's name, and the number that it holds if it is one.
        family: the file of its class, such as "arithmetic".
        bytes: what its value takes.
        inputs: the numbers of the spots whose outputs it takes.
        stored: the name of the buffer that takes its value after the pass, or "".
        needs: whether a gradient flows through it.
        residual: what the certificate says of its gradient, or "".
    """

    kind: str
    label: str
    family: str
    shape: tuple[int, ...]
    bytes: int
    inputs: tuple[int, ...]
    attributes: Mapping[str, str]
    formula: Formula
    stored: str
    needs: bool
    value: Statistics | None
    gradient: Statistics | None
    residual: str


@dataclass(frozen=True)
class Group:
    """The spots of one layer, by number, and the one whose output is the layer's."""

    title: str
    summary: str
    spots: tuple[int, ...]
    output: int
    parameters: int


@dataclass(frozen=True)
class Sketch:
    """A graph, ready to be drawn: every spot in exactly one group, each group fed by the one before it."""

    title: str
    lines: tuple[str, ...]
    spots: tuple[Spot, ...]
    groups: tuple[Group, ...]


@dataclass
class Part:
    """A layer's own nodes while they are gathered."""

    title: str
    summary: str
    nodes: list[Node]
    output: Node


@dataclass
class Wiring:
    """A graph in parts, what feeds it, and what is known of its gradients."""

    parts: list[Part]
    graph: Graph
    feeds: Mapping[str, Any]
    dy: Any
    certificate: Certificate | None = None


def sketch_layer(name: str, seed: int = 0) -> Sketch:
    """A layer or loss alone, on the inputs of its first verification case, its gradients certified on the spot.

    Raises:
        UserError: when no layer has this name.
    """
    if name not in Wired.registry:
        raise UserError(f"layer={name} is unknown: {near(name, Wired.registry)}")
    kind = Wired.registry[name]
    case = next(kind.cases())
    rng = np.random.default_rng(seed)
    layer = case.make(lambda what: draw(rng, what))
    feeds = {feed: draw(rng, what) for feed, what in zip(layer.feeds, case.draws, strict=True)}
    graph = layer.graph(tuple(x.shape for x in feeds.values()), case.train)
    (output, *_) = graph.outputs
    dy = upstream(rng, output.shape or ())
    part = Part(name, summary(kind), list(graph.order), output)
    wiring = Wiring([part], graph, feeds, dy, certify(graph, [feeds], dy, seed=seed))
    return _sketch(name, (summary(kind), f"case: {case.label}; a random upstream gradient"), wiring)


def sketch_network(
    net: Network, x: Any, t: Any, certificate: Certificate | None = None, data: str = "images"
) -> Sketch:
    """A network in training mode with its loss, a group for each layer, with the statistics of one batch.

    Args:
        net: a copy of it is run; nothing of it is changed.
        x: images (N, C, H, W) on the host.
        t: their labels (N,).
        certificate: of its gradients.
        data: what the images are, in words.
    """
    own = build(**net.spec, device=Device("cpu", dtype=net.device.dtype, compile=False))
    own.load_state_dict(net.state_dict())
    wiring = _wire(own, np.asarray(x, own.device.dtype), np.asarray(t))
    wiring.certificate = certificate
    lines = [
        f"{len(net.layers)} layers, {len(wiring.graph.order)} nodes, {net.params.flat.size:,} parameters",
        f"one batch of {len(x)} {data}, in training mode",
    ]
    if certificate is not None:
        lines.append(f"gradients {certificate.status}, worst residual {certificate.worst:.1e}")
    return _sketch(net.name, tuple(lines), wiring)


def _wire(net: Network, x: Any, t: Any) -> Wiring:
    """Wire a network layer by layer, as `Network.wire` does, and note which nodes each layer adds."""
    mode = Mode(train=True)
    last: Node = Input("x", x.shape, gradient=False)
    labels = Input("t", t.shape, gradient=False)
    parts = [Part("Input", "The images.", [last], last)]
    known: set[Node] = {last}
    for layer in (*net.layers, net.loss_layer):
        inputs = (last, labels) if layer is net.loss_layer else (last,)
        last = layer.wire(*inputs, mode=mode)
        nodes = [node for node in topological_order((last, *mode.updates.values())) if node not in known]
        known.update(nodes)
        if nodes:  # a layer may be nothing
            parts.append(Part(_title(layer), summary(type(layer)), nodes, last))
    return Wiring(parts, Graph(last, updates=mode.updates), {"x": x, "t": t}, np.ones((), x.dtype))


def _title(layer: Wired) -> str:
    """The layer's kind, with the number that its parameters bear if it has any."""
    names = [leaf.name for leaf in layer.parameters.values()]
    number = re.sub(r"\D", "", names[0]) if names else ""
    return f"{type(layer).__name__} {number}".strip()


def _sketch(title: str, lines: tuple[str, ...], wiring: Wiring) -> Sketch:
    values, gradients = observe(wiring.graph, wiring.feeds, wiring.dy)
    numbers = {node: i for i, node in enumerate(node for part in wiring.parts for node in part.nodes)}
    told = _residuals(wiring.certificate)
    stored = {node: buffer.name for buffer, node in wiring.graph.updates.items()}
    spots = [
        _spot(node, numbers, values[node], gradients.get(node), node in wiring.graph.needs, stored, told)
        for node in numbers
    ]
    groups = [
        Group(
            part.title,
            part.summary,
            tuple(numbers[node] for node in part.nodes),
            numbers[part.output],
            sum(size(values[node].shape) for node in part.nodes if isinstance(node, Parameter)),
        )
        for part in wiring.parts
    ]
    return Sketch(title, lines, tuple(spots), tuple(groups))


def _spot(
    node: Node,
    numbers: Mapping[Node, int],
    value: Any,
    gradient: Any,
    needs: bool,
    stored: Mapping[Node, str],
    residuals: Mapping[str, str],
) -> Spot:
    kind = type(node).__name__
    attributes = _attributes(node)
    return Spot(
        kind=kind,
        label=_label(node, kind, attributes),
        family=family(type(node)),
        shape=tuple(value.shape),
        bytes=int(value.nbytes),
        inputs=tuple(numbers[n] for n in node.inputs),
        attributes=attributes,
        formula=formula(type(node)),
        stored=stored.get(node, ""),
        needs=needs,
        value=statistics(value),
        gradient=None if gradient is None else statistics(gradient),
        residual=residuals.get(node.name, "") if isinstance(node, Leaf) else "",
    )


def family(kind: type[Node]) -> str:
    """The file of a kind of node, where it is one of those with a colour."""
    name = kind.__module__.rpartition(".")[2]
    return name if name in FAMILIES else "other"


def _label(node: Node, kind: str, attributes: Mapping[str, str]) -> str:
    if isinstance(node, Leaf):
        return node.name
    return f"{kind} {next(iter(attributes.values()))}" if kind in ("MulConst", "AddConst", "Power") else kind


def _attributes(node: Node) -> dict[str, str]:
    hidden = {"inputs", "shape", "value", "name", "trainable", "path"}
    return {name: _short(value) for name, value in vars(node).items() if name not in hidden}


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _residuals(certificate: Certificate | None) -> dict[str, str]:
    verdicts = () if certificate is None else certificate.tensors
    return {v.name: f"{v.verdict}, residual {v.residual:.1e}" for v in verdicts}
