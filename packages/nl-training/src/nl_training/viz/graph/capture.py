"""Diagrams of layers and networks: both graphs are run, profiled and certified."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nl_layers.module import Module
from nl_models import Network
from nl_nodes import Device, Graph, UserError
from nl_nodes.arguments import near
from nl_nodes.compiler import RULES, CompileSpec, Executor, Plan, Provenance, profile, profile_reference, rewrite
from nl_nodes.verify import Certificate, certify, draw, upstream
from nl_training.data import Dataset
from nl_training.viz.graph.diagram import Diagram, NodeView
from nl_training.viz.graph.node_info import summary
from nl_training.viz.graph.view import CapturedGraph, related_nodes

# Repetitions of the profile, which gives medians.
REPEATS = 5
IMAGES = 8


def capture_layer(name: str, seed: int = 0) -> Diagram:
    """Return the diagram of a layer or loss, run on its first verification case, with gradients certified.

    Raises:
        UserError: if no layer has this name.
    """
    if name not in Module.registry:
        raise UserError(f"layer={name} is unknown: {near(name, Module.registry)}")
    kind = Module.registry[name]
    case = next(kind.cases())
    rng = np.random.default_rng(seed)
    layer = case.make(lambda what: draw(rng, what))
    feeds = {feed: draw(rng, what) for feed, what in zip(layer.feeds, case.draws, strict=True)}
    graph = layer.graph(tuple(x.shape for x in feeds.values()), case.train)
    dy = upstream(rng, graph.outputs[0].shape or ())
    provenance = Provenance(graph)
    compiled = rewrite(graph, RULES, provenance)
    plan = Plan(compiled, CompileSpec({n: (x.shape, x.dtype) for n, x in feeds.items()}, gradients={}), Executor())
    slow, fast = profile_reference(graph, feeds, REPEATS), profile(plan, feeds, repeats=REPEATS)
    graphs = (
        CapturedGraph("reference", name, graph, slow, certify(graph, feeds, dy, seed=seed), "reference"),
        CapturedGraph("compiled", name, compiled, fast, certify(compiled, feeds, dy, seed=seed), "compiled"),
    )
    lines = (summary(kind), f"case: {case.label}; a random upstream gradient; times: the median of {REPEATS} steps")
    return _diagram(name, lines, graphs, provenance, feeds, dy)


def capture_network(
    net: Network, x: Any, t: Any, certificate: Certificate | None = None, data: str = "images"
) -> Diagram:
    """Return the diagram of a network with its loss in training mode, run and profiled on one CPU thread.

    Args:
        net: the network; a copy is run.
        x: images (N, C, H, W) on the host.
        t: their labels (N,).
        certificate: certificate of the gradients on the network's own device.
        data: description of the images.
    """
    # One thread: on a busy machine, most of the time of several would be spent in barriers.
    device = Device("cpu", dtype=net.device.dtype, threads=1)
    own = net.on(device)
    feeds = {"x": np.asarray(x, device.dtype), "t": np.asarray(t)}
    graph = own.wire(len(x), train=True)
    provenance = Provenance(graph)
    compiled = rewrite(graph, RULES, provenance)
    with device.limits():
        fast = profile(own.plan(True, len(x)), feeds, repeats=REPEATS)
        slow = profile_reference(graph, feeds, REPEATS)
    certified = "compiled" if net.device.compiles else "reference"
    graphs = (
        CapturedGraph("reference", net.name, graph, slow, certificate, certified),
        CapturedGraph("compiled", net.name, compiled, fast, certificate, certified),
    )
    lines = [
        f"{sum(not layer.children for layer in net.all_layers)} layers, {net.params.flat.size:,} parameters",
        f"one batch of {len(x)} {data}, in training mode",
        f"times: the median of {REPEATS} steps on this batch, on one CPU thread; trainer.profile=true profiles a run",
    ]
    if certificate is not None:
        lines.append(f"gradients {certificate.status}, worst residual {certificate.worst:.1e}")
    return _diagram(net.name, tuple(lines), graphs, provenance, feeds, np.ones((), device.dtype))


def capture_training(net: Network, data: Dataset, certificate: Certificate | None) -> Diagram:
    """Return the diagram of a network, run on the first training images of its data."""
    part = data.train
    return capture_network(net, part.x[:IMAGES], part.t[:IMAGES], certificate, f"images of {data.name}")


def outline(title: str, line: str, graphs: Mapping[str, Graph]) -> Diagram | None:
    """Return a diagram of graphs that are not run, by name; None where a shape is unknown."""
    views, groups = [], []
    nodes: list[NodeView] = []
    for name, graph in graphs.items():
        shapes = graph.known_shapes()
        if shapes is None:
            return None
        captured = CapturedGraph(name, title, graph, (), None, "", first=len(nodes))
        nodes += captured.outline(shapes).values()
        groups += captured.groups()
        views.append(captured.view)
    return Diagram(title, (line,), tuple(views), tuple(nodes), tuple(groups))


def _diagram(
    title: str,
    lines: Sequence[str],
    graphs: tuple[CapturedGraph, CapturedGraph],
    provenance: Provenance,
    feeds: Mapping[str, Any],
    dy: Any,
) -> Diagram:
    reference, compiled = graphs
    compiled.first = len(reference.numbers)
    related = related_nodes(reference, compiled, provenance)
    nodes = [node for graph, own in zip(graphs, related, strict=True) for node in graph.node_views(feeds, dy, own)]
    groups = [group for graph in graphs for group in graph.groups()]
    return Diagram(title, tuple(lines), tuple(graph.view for graph in graphs), tuple(nodes), tuple(groups))
