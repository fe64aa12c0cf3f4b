"""Pictures of node graphs: an SVG, and a page to look around in that needs nothing but itself."""

from nl_training.drawing.looks import sketch_layer, sketch_network
from nl_training.drawing.page import page
from nl_training.drawing.sketch import Sketch
from nl_training.drawing.svg import svg

__all__ = ["Sketch", "page", "sketch_layer", "sketch_network", "svg"]
