"""Drawings of layers, networks and graphs in notebooks, registered with IPython."""

from __future__ import annotations

import sys
from base64 import b64encode
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nl_layers.module import Module
    from nl_models import Network
    from nl_nodes import Graph

MOST_NODES = 100
"""Graphs with more nodes are shown as text: a drawing would be too small to read."""


def register() -> None:
    """Let IPython show a drawing of networks, layers and graphs, if this process is a notebook or IPython shell."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None:
        html = shell.display_formatter.formatters["text/html"]
        html.for_type_by_name("nl_models.network", "Network", network_html)
        html.for_type_by_name("nl_layers.module", "Module", layer_html)
        html.for_type_by_name("nl_nodes.graph", "Graph", graph_html)


def network_html(net: Network) -> str | None:
    """Return the drawing of a network's training step on one batch, before and after rewriting."""
    from nl_nodes.compiler import RULES, rewrite

    graph = net.wire(2, train=True)
    return _html(net.name, repr(net), {"reference": graph, "compiled": rewrite(graph, RULES)})


def layer_html(layer: Module) -> str | None:
    """Return the drawing of a layer as it was run last; None if it was not run yet."""
    graph = layer.last_graph
    return None if graph is None else _html(type(layer).__name__, repr(layer), {"graph": graph})


def graph_html(graph: Graph) -> str | None:
    """Return the drawing of a graph; None if the shape of an input is unknown."""
    return _html("Graph", repr(graph), {"graph": graph})


def _html(title: str, line: str, graphs: dict[str, Graph]) -> str | None:
    from nl_training.viz.graph import outline, svg

    diagram = outline(title, line, graphs)
    if diagram is None or max(len(graph.order) for graph in graphs.values()) > MOST_NODES:
        return None
    data = b64encode(svg(diagram).encode()).decode()  # as an image: its styles do not reach the page
    style = "max-width: none; zoom: 0.75"
    image = f'<img alt="{escape(line)}" style="{style}" src="data:image/svg+xml;base64,{data}">'
    return f'<div style="overflow-x: auto">{image}</div>'
