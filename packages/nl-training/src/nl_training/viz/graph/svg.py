"""Diagrams as SVG: one box per group, boxes in columns, colours for light and dark mode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from itertools import pairwise
from math import log

from nl_training.viz.graph.diagram import Diagram, GraphView, Group
from nl_training.viz.graph.layout import HEIGHT, WIDTH, Edge, Layout, Point, lay_out

HEADER, PADDING, GAP = 40.0, 18.0, 34.0
COLUMN_GAP, GRAPH_GAP, MARGIN, TITLE = 56.0, 100.0, 40.0, 160.0
LETTER = 8.2  # width of a letter in a box's header, with margin
RATIO = 1.3  # target aspect ratio, width to height
STEPS = 24  # number of column heights to try
LABEL, LABEL_WIDTH = 15.0, WIDTH - 22  # font size and maximum width of a label
ASPECT = 0.64  # width of a letter relative to the font size
ENTRY, EXIT = -1, -2  # pseudo-nodes for a group's input and output


@dataclass(frozen=True)
class Box:
    """Drawing of one group.

    Attributes:
        markup: SVG content with the top left corner at 0, 0.
        exit: x coordinate of the output at the bottom edge.
    """

    markup: str
    width: float
    height: float
    exit: float


@dataclass(frozen=True)
class Placed:
    """A box, the position of its top left corner, and the x coordinate of the free lane left of its column."""

    box: Box
    x: float
    y: float
    lane: float


def style() -> str:
    """Return the CSS of all drawings."""
    return (files(__package__) / "style.css").read_text("utf-8")


def svg(diagram: Diagram) -> str:
    """Return a standalone SVG with both graphs side by side and every group open."""
    boxes = [box(diagram, number) for number in range(len(diagram.groups))]
    graphs = side_by_side([[boxes[number] for number in diagram.groups_of(graph)] for graph in diagram.graphs])
    elements = []
    for graph, placed in zip(diagram.graphs, graphs, strict=True):
        left = min(p.x for p in placed)
        elements.append(f'<text class="graph-title" x="{left:.1f}" y="{TITLE - 26}">{escape(heading(graph))}</text>')
        elements += [f'<path class="link" d="{link(a, b)}"/>' for a, b in pairwise(placed)]
        elements += [f'<g transform="translate({p.x:.1f} {p.y:.1f})">{p.box.markup}</g>' for p in placed]
    lines = [
        f'<text class="line" x="{MARGIN}" y="{62 + 17 * i}">{escape(line)}</text>'
        for i, line in enumerate(diagram.lines)
    ]
    right, bottom = size_of(graphs)
    width, height = max(right, 7 * max(map(len, diagram.lines))) + MARGIN, bottom + MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="drawing" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}"><style>{style()}</style>{ARROW}'
        f'<rect class="paper" width="100%" height="100%"/>'
        f'<text class="heading" x="{MARGIN}" y="40">{escape(diagram.title)}</text>{"".join(lines + elements)}'
        "</svg>\n"
    )


def heading(graph: GraphView) -> str:
    """Return the heading of a graph."""
    time = f", {duration(graph.seconds)} a step" if graph.seconds else ""
    return f"{graph.name}: {graph.node_count} nodes{time}"


def duration(seconds: float) -> str:
    """Format a time.

    >>> duration(0.00123456), duration(4.2e-6), duration(0)
    ('1.23 ms', '4.2 µs', '0 µs')
    """
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} µs"


def _marker(name: str) -> str:
    return (
        f'<marker id="{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="9" markerHeight="9" orient="auto" '
        f'markerUnits="userSpaceOnUse"><path d="M0 0.8 L7.5 4 L0 7.2 z"/></marker>'
    )


ARROW = f"<defs>{_marker('arrow')}{_marker('lit')}</defs>"


def side_by_side(graphs: Sequence[Sequence[Box]]) -> list[list[Placed]]:
    """Place graphs side by side, in columns of the height that brings the whole closest to `RATIO`."""
    boxes = [b for graph in graphs for b in graph]
    lowest, highest = max(b.height for b in boxes), sum(b.height + GAP for b in boxes)

    def placed(step: int) -> list[list[Placed]]:
        limit, left, found = lowest * (highest / lowest) ** (step / STEPS), MARGIN, []
        for graph in graphs:
            found.append(place(graph, left, limit))
            left = size_of(found)[0] + GRAPH_GAP
        return found

    def ratio_error(found: list[list[Placed]]) -> float:
        width, height = size_of(found)
        return abs(log(width / height / RATIO))

    return min(map(placed, range(STEPS)), key=ratio_error)


def size_of(graphs: Sequence[Sequence[Placed]]) -> Point:
    """Return the right and bottom edge of all boxes."""
    everything = [p for graph in graphs for p in graph]
    return max(p.x + p.box.width for p in everything), max(p.y + p.box.height for p in everything)


def place(boxes: Sequence[Box], left: float, limit: float) -> list[Placed]:
    """Place boxes from top to bottom in columns of at most height `limit`, from `left` to the right."""
    columns: list[list[Box]] = [[]]
    y = 0.0
    for b in boxes:
        if columns[-1] and y + b.height > limit:
            columns.append([])
            y = 0.0
        columns[-1].append(b)
        y += b.height + GAP
    placed = []
    for column in columns:
        width, y = max(b.width for b in column), TITLE
        for b in column:
            placed.append(Placed(b, left + (width - b.width) / 2, y, left - COLUMN_GAP / 2))
            y += b.height + GAP
        left += width + COLUMN_GAP
    return placed


def link(start: Placed, end: Placed) -> str:
    """Return the path from one box to the next, which is below it or at the top of the next column."""
    x0, y0 = start.x + start.box.exit, start.y + start.box.height
    x1, y1 = end.x + end.box.width / 2, end.y
    if y1 > y0:
        return curve([(x0, y0), (x1, y1)])
    under, over = y0 + GAP / 2, y1 - GAP / 2
    return f"M{x0:.1f} {y0:.1f} V{under:.1f} H{end.lane:.1f} V{over:.1f} H{x1:.1f} V{y1:.1f}"


def curve(points: Sequence[Point]) -> str:
    """Return a path through points that is vertical at each of them."""
    commands = [f"M{points[0][0]:.1f} {points[0][1]:.1f}"]
    for (x0, y0), (x1, y1) in pairwise(points):
        middle = (y0 + y1) / 2
        commands.append(f"C{x0:.1f} {middle:.1f} {x1:.1f} {middle:.1f} {x1:.1f} {y1:.1f}")
    return " ".join(commands)


def box(diagram: Diagram, number: int) -> Box:
    """Draw a group."""
    group = diagram.groups[number]
    plan = lay_out(*layout_input(diagram, number))
    letters = len(group.title) + len(shaped(diagram.nodes[group.output].shape))
    width = max(plan.width + 2 * PADDING, LETTER * letters + 2 * PADDING)
    left, top = (width - plan.width) / 2, HEADER + PADDING
    height = top + plan.height + (0 if EXIT in plan.places else PADDING)
    exit_x = left + plan.places[EXIT][0] if EXIT in plan.places else width / 2
    inner = _edges(diagram, plan) + "".join(_node(diagram, n, *plan.places[n]) for n in group.nodes)
    markup = (
        f'<rect class="box" width="{width:.1f}" height="{height:.1f}" rx="12"/>{header(diagram, group, width)}'
        f'<g transform="translate({left:.1f} {top:.1f})">{inner}</g>'
    )
    return Box(markup, width, height, exit_x)


def layout_input(diagram: Diagram, number: int) -> tuple[list[int], list[Edge]]:
    """Return the nodes and edges of a group to lay out, with `ENTRY` and `EXIT` if it has an input or a successor."""
    group = diagram.groups[number]
    own = set(group.nodes)
    edges = [(i if i in own else ENTRY, n) for n in group.nodes for i in diagram.nodes[n].inputs]
    nodes = list(group.nodes)
    if any(start == ENTRY for start, _ in edges):
        nodes.insert(0, ENTRY)
    if any(later.graph == group.graph for later in diagram.groups[number + 1 :]):
        nodes.append(EXIT)
        edges.append((group.output, EXIT))
    return nodes, edges


def header(diagram: Diagram, group: Group, width: float) -> str:
    """Draw the header of a box: title and output shape."""
    shape = shaped(diagram.nodes[group.output].shape)
    return (
        f'<g class="header"><title>{escape(group.summary)}</title><path class="bar" d="M0 {HEADER} V12 Q0 0 12 0 '
        f'H{width - 12:.1f} Q{width:.1f} 0 {width:.1f} 12 V{HEADER} z"/>'
        f'<text class="title" x="14" y="25">{escape(group.title)}</text>'
        f'<text class="shape" x="{width - 14:.1f}" y="25" text-anchor="end">{shape}</text></g>'
    )


def shaped(shape: Sequence[int]) -> str:
    """Format a shape, such as `8 × 64 × 26 × 26` or `scalar`."""
    return " × ".join(map(str, shape)) or "scalar"


def _edges(diagram: Diagram, plan: Layout) -> str:
    drawn = []
    for (start, end), points in plan.routes.items():
        if start == ENTRY:  # starts at the header's bottom edge
            points = [(points[0][0], -PADDING), *points[1:]]
        classes = "edge quiet" if start >= 0 and not diagram.nodes[start].needs_grad else "edge"
        arrow = "" if end == EXIT else ' marker-end="url(#arrow)"'
        drawn.append(f'<path class="{classes}" data-edge="{start} {end}" d="{curve(points)}"{arrow}/>')
    return "".join(drawn)


def _node(diagram: Diagram, number: int, x: float, y: float) -> str:
    node = diagram.nodes[number]
    leaf = node.family == "leaves"
    radius, inset = (HEIGHT / 2, HEIGHT / 2) if leaf else (8, 14.0)
    middle = WIDTH / 2 + (0 if leaf else 3)
    size = min(LABEL, LABEL_WIDTH / (ASPECT * len(node.label)))
    classes = f"node {node.kind.lower() if leaf else node.family}{' stored' if node.stored else ''}"
    below = f"→ {node.stored}" if node.stored else shaped(node.shape)
    stripe = "" if leaf else f'<path class="stripe" d="M8 0 Q0 0 0 8 V{HEIGHT - 8} Q0 {HEIGHT} 8 {HEIGHT} z"/>'
    return (
        f'<g class="{classes}" data-node="{number}" transform="translate({x - WIDTH / 2:.1f} {y - HEIGHT / 2:.1f})">'
        f'<rect class="shape-of-node" width="{WIDTH}" height="{HEIGHT}" rx="{radius}"/>{stripe}'
        f'<text class="label" font-size="{size:.1f}" x="{middle}" y="20">{escape(node.label)}</text>'
        f'<text class="shape" x="{middle}" y="35">{escape(below)}</text>'
        f"{heat(diagram.shares[number], inset, HEIGHT - 5, WIDTH - 2 * inset)}</g>"
    )


def heat(share: float, x: float, y: float, width: float) -> str:
    """Draw a bar for a time relative to the slowest; nothing below 1 %."""
    if share < 0.01:
        return ""
    return f'<rect class="heat" x="{x}" y="{y}" width="{width * share:.1f}" height="3" rx="1.5"/>'
