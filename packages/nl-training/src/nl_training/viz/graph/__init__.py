"""Drawings of node graphs: an SVG, and a self-contained interactive page."""

from nl_training.viz.graph.capture import capture_layer, capture_network, capture_training, outline
from nl_training.viz.graph.diagram import Diagram
from nl_training.viz.graph.page import page
from nl_training.viz.graph.svg import svg

__all__ = ["Diagram", "capture_layer", "capture_network", "capture_training", "outline", "page", "svg"]
