"""Interactive page of a diagram: pan, zoom, open and close layers, click a node for its data.

The reference graph is beside the compiled one; a click on a node also highlights the related nodes of the other graph.
The page is one file without external resources.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from nl_nodes.compiler import Row
from nl_training.viz.graph.diagram import Diagram, Group, NodeView
from nl_training.viz.graph.svg import (
    ARROW,
    COLUMN_GAP,
    GAP,
    GRAPH_GAP,
    STEPS,
    Box,
    box,
    duration,
    heading,
    heat,
    shaped,
    style,
)

SHUT = (290.0, 58.0)  # width and height of a closed group
MAX_OPEN_NODES = 60  # with more nodes the labels would be too small to read, so layers start closed


def page(diagram: Diagram) -> str:
    """Return the page as HTML."""
    boxes = [box(diagram, number) for number in range(len(diagram.groups))]
    groups = [_group(diagram, number, b) for number, b in enumerate(boxes)]
    return Template(_read("page.html")).substitute(
        title=escape(diagram.title),
        lines="".join(f"<p>{escape(line)}</p>" for line in diagram.lines),
        legend="".join(_legend(diagram)),
        style=style() + _read("page.css"),
        picture=ARROW + '<g id="stage"><g id="links"></g>' + "".join([*_headings(diagram), *groups]) + "</g>",
        facts=json.dumps(_facts(diagram, boxes)).replace("</", "<\\/"),
        script=_read("page.js"),
    )


def _read(name: str) -> str:
    return (files(__package__) / name).read_text("utf-8")


def _legend(diagram: Diagram) -> list[str]:
    families = {node.kind.lower() if node.family == "leaves" else node.family: None for node in diagram.nodes}
    heat_key = '<li class="hot">time, relative to the slowest</li>'
    return [*(f'<li class="node {family}">{family}</li>' for family in families), heat_key]


def _headings(diagram: Diagram) -> list[str]:
    return [f'<text class="graph-title">{escape(heading(graph))}</text>' for graph in diagram.graphs]


def _group(diagram: Diagram, number: int, open_box: Box) -> str:
    group = diagram.groups[number]
    width, height = SHUT
    seconds = diagram.seconds(group)
    slowest = max(diagram.seconds(g) for g in diagram.groups if g.graph == group.graph)
    shut = (
        f'<rect class="box" width="{width}" height="{height}" rx="12"/>'
        f'<text class="title" x="14" y="23">{escape(group.title)}</text>'
        f'<text class="shape" x="{width - 14}" y="23" text-anchor="end">{duration(seconds)}</text>'
        f'<text class="shape" x="14" y="41">{escape(_summary(diagram, group))}</text>'
        f"{heat(seconds / slowest, 14, height - 9, width - 28)}"
        f"<title>{escape(group.summary)}</title>"
    )
    return (
        f'<g class="group" data-group="{number}"><g class="open">{open_box.markup}</g>'
        f'<g class="shut header">{shut}</g></g>'
    )


def _summary(diagram: Diagram, group: Group) -> str:
    shape = shaped(diagram.nodes[group.output].shape)
    return f"{shape}, {group.parameters:,} weights" if group.parameters else shape


def _facts(diagram: Diagram, boxes: list[Box]) -> dict[str, Any]:
    """Return the data for the script."""
    graphs = [graph.name for graph in diagram.graphs]
    return {
        "open": len(diagram.nodes) <= MAX_OPEN_NODES,
        "shut": {"width": SHUT[0], "height": SHUT[1], "exit": SHUT[0] / 2},
        "gap": GAP,
        "columnGap": COLUMN_GAP,
        "graphGap": GRAPH_GAP,
        "steps": STEPS,
        "graphs": [asdict(graph) for graph in diagram.graphs],
        "groups": [
            {
                "graph": graphs.index(g.graph), "title": g.title, "nodes": g.nodes,
                "width": b.width, "height": b.height, "exit": b.exit,
            }
            for g, b in zip(diagram.groups, boxes, strict=True)
        ],
        "nodes": [_node(node) for node in diagram.nodes],
    }  # fmt: skip


def _node(node: NodeView) -> dict[str, Any]:
    return {
        **asdict(node),
        "shape": shaped(node.shape),
        "memory": _memory(node.bytes),
        "attributes": list(node.attributes.items()),
        "algorithm": next((row.algorithm for row in node.costs), ""),
        "costs": {row.direction: _cost(row) for row in node.costs},
    }


def _cost(row: Row) -> dict[str, Any]:
    return {
        "seconds": row.seconds,
        "time": duration(row.seconds),
        "operations": f"{row.flops:,}",
        "memory": _memory(row.bytes),
        "calls": f"{row.calls:,}",
    }


def _memory(count: int) -> str:
    """Format a number of bytes.

    >>> _memory(6272)
    '6.27 kB'
    """
    power = min((len(str(count)) - 1) // 3, 3)
    return f"{count / 1000**power:.3g} {('bytes', 'kB', 'MB', 'GB')[power]}"
