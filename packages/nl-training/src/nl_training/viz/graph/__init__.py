"""Pictures of node graphs: an SVG, and a page to look around in that needs nothing but itself."""

from nl_training.viz.graph.capture import sketch_layer, sketch_network
from nl_training.viz.graph.diagram import Sketch
from nl_training.viz.graph.page import page
from nl_training.viz.graph.svg import svg

__all__ = ["Sketch", "page", "sketch_layer", "sketch_network", "svg"]
