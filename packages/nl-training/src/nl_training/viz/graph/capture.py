"""Looking at a layer or a network: it is run, compiled, measured, and becomes a sketch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nl_layers.module import Module
from nl_models import Network, build
from nl_nodes import Device, UserError
from nl_nodes.compiler import RULES, Executor, Plan, Provenance, profile, profile_reference, rewrite
from nl_nodes.verify import Certificate, certify, draw, upstream
from nl_training.config.resolve import near
from nl_training.viz.graph.diagram import Sketch
from nl_training.viz.graph.node_info import summary
from nl_training.viz.graph.view import CapturedGraph, related_nodes

# How often a step is measured; the median counts.
REPEATS = 5


def sketch_layer(name: str, seed: int = 0) -> Sketch:
    """A layer or loss alone, on the inputs of its first verification case, its gradients certified on the spot.

    Raises:
        UserError: when no layer has this name.
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
    plan = Plan(compiled, {n: (x.shape, x.dtype) for n, x in feeds.items()}, frozenset(), {}, Executor())
    slow, fast = profile_reference(graph, feeds, REPEATS), profile(plan, feeds, repeats=REPEATS)
    halves = (
        CapturedGraph("reference", name, graph, slow, certify(graph, feeds, dy, seed=seed), "reference"),
        CapturedGraph("compiled", name, compiled, fast, certify(compiled, feeds, dy, seed=seed), "compiled"),
    )
    lines = (summary(kind), f"case: {case.label}; a random upstream gradient; times: the median of {REPEATS} steps")
    return _sketch(name, lines, halves, provenance, feeds, dy)


def sketch_network(
    net: Network, x: Any, t: Any, certificate: Certificate | None = None, data: str = "images"
) -> Sketch:
    """A network in training mode with its loss, with the statistics of one batch, measured on one CPU thread.

    Args:
        net: a copy of it is run; nothing of it is changed.
        x: images (N, C, H, W) on the host.
        t: their labels (N,).
        certificate: of its gradients as its device computes them.
        data: what the images are, in words.
    """
    # One thread each: several wait for each other, which on a busy machine would be most of what is measured.
    device = Device("cpu", dtype=net.device.dtype, threads=1)
    own = build(**net.spec, device=device)
    own.load_state_dict(net.state_dict())
    feeds = {"x": np.asarray(x, device.dtype), "t": np.asarray(t)}
    graph = own.wire(len(x), train=True)
    provenance = Provenance(graph)
    compiled = rewrite(graph, RULES, provenance)
    with device.limits():
        fast = profile(own.plan(True, len(x)), feeds, repeats=REPEATS)
        slow = profile_reference(graph, feeds, REPEATS)
    certified = "compiled" if net.device.compiles else "reference"
    halves = (
        CapturedGraph("reference", net.name, graph, slow, certificate, certified),
        CapturedGraph("compiled", net.name, compiled, fast, certificate, certified),
    )
    lines = [
        f"{len(net.layers)} layers, {net.params.flat.size:,} parameters",
        f"one batch of {len(x)} {data}, in training mode",
        f"times: the median of {REPEATS} steps on this batch, by one CPU thread; trainer.profile=true tells training's",
    ]
    if certificate is not None:
        lines.append(f"gradients {certificate.status}, worst residual {certificate.worst:.1e}")
    return _sketch(net.name, tuple(lines), halves, provenance, feeds, np.ones((), device.dtype))


def _sketch(
    title: str,
    lines: Sequence[str],
    halves: tuple[CapturedGraph, CapturedGraph],
    provenance: Provenance,
    feeds: Mapping[str, Any],
    dy: Any,
) -> Sketch:
    reference, compiled = halves
    compiled.first = len(reference.numbers)
    related = related_nodes(reference, compiled, provenance)
    spots = [spot for half, own in zip(halves, related, strict=True) for spot in half.spots(feeds, dy, own)]
    groups = [group for half in halves for group in half.groups()]
    return Sketch(title, tuple(lines), tuple(half.half for half in halves), tuple(spots), tuple(groups))
