"""The picture as SVG: each group in a box of its own, the boxes in columns, in colours for light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from itertools import pairwise
from math import sqrt

from nl_training.drawing.layout import HEIGHT, WIDTH, Edge, Layout, Point, lay_out
from nl_training.drawing.sketch import Group, Sketch, Spot

HEADER, PADDING, GAP = 40.0, 18.0, 34.0
COLUMN_GAP, MARGIN, TITLE = 70.0, 40.0, 96.0
LEAST = 230.0  # a box is no narrower, so that its title fits
RATIO = 1.6  # how much wider than high the whole becomes, about
ENTRY, EXIT = -1, -2  # where a group is fed, and where it feeds the next


@dataclass(frozen=True)
class Box:
    """One group, drawn.

    Attributes:
        markup: its content; the corner of the box is at 0, 0.
        exit: where its output leaves the bottom, from the left.
    """

    markup: str
    width: float
    height: float
    exit: float


@dataclass(frozen=True)
class Placed:
    """A box, its corner in the whole, and where a line runs free on the left of its column."""

    box: Box
    x: float
    y: float
    lane: float


def style() -> str:
    """The colours and shapes of all pictures."""
    return (files(__package__) / "style.css").read_text()


def svg(sketch: Sketch) -> str:
    """The whole picture, every group open, as a file of its own."""
    placed = place([box(sketch, number) for number in range(len(sketch.groups))])
    width = max(p.x + p.box.width for p in placed) + MARGIN
    width = max(width, 2 * MARGIN + 7 * max(map(len, sketch.lines)))
    height = max(p.y + p.box.height for p in placed) + MARGIN
    lines = [
        f'<text class="line" x="{MARGIN}" y="{62 + 17 * i}">{escape(line)}</text>'
        for i, line in enumerate(sketch.lines)
    ]
    links = [f'<path class="link" d="{link(a, b)}"/>' for a, b in pairwise(placed)]
    groups = [f'<g transform="translate({p.x:.1f} {p.y:.1f})">{p.box.markup}</g>' for p in placed]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="drawing" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}"><style>{style()}</style>{ARROW}'
        f'<rect class="paper" width="100%" height="100%"/>'
        f'<text class="heading" x="{MARGIN}" y="40">{escape(sketch.title)}</text>{"".join(lines + links + groups)}'
        "</svg>\n"
    )


def _marker(name: str) -> str:
    return (
        f'<marker id="{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="9" markerHeight="9" orient="auto" '
        f'markerUnits="userSpaceOnUse"><path d="M0 0.8 L7.5 4 L0 7.2 z"/></marker>'
    )


ARROW = f"<defs>{_marker('arrow')}{_marker('lit')}</defs>"


def place(boxes: Sequence[Box]) -> list[Placed]:
    """One box below the other, in as many columns as make the whole a bit wider than high."""
    area = sum((b.width + COLUMN_GAP) * (b.height + GAP) for b in boxes)
    limit = max(sqrt(area / RATIO), *(b.height for b in boxes))
    columns: list[list[Box]] = [[]]
    y = 0.0
    for b in boxes:
        if columns[-1] and y + b.height > limit:
            columns.append([])
            y = 0.0
        columns[-1].append(b)
        y += b.height + GAP
    placed = []
    left = MARGIN
    for column in columns:
        width, y = max(b.width for b in column), TITLE
        for b in column:
            placed.append(Placed(b, left + (width - b.width) / 2, y, left - COLUMN_GAP / 2))
            y += b.height + GAP
        left += width + COLUMN_GAP
    return placed


def link(start: Placed, end: Placed) -> str:
    """The path from one box to the next, which stands below it or on top of the next column."""
    x0, y0 = start.x + start.box.exit, start.y + start.box.height
    x1, y1 = end.x + end.box.width / 2, end.y
    if y1 > y0:
        return curve([(x0, y0), (x1, y1)])
    under, over = y0 + GAP / 2, y1 - GAP / 2
    return f"M{x0:.1f} {y0:.1f} V{under:.1f} H{end.lane:.1f} V{over:.1f} H{x1:.1f} V{y1:.1f}"


def curve(points: Sequence[Point]) -> str:
    """A path that leaves and enters each point upright."""
    parts = [f"M{points[0][0]:.1f} {points[0][1]:.1f}"]
    for (x0, y0), (x1, y1) in pairwise(points):
        middle = (y0 + y1) / 2
        parts.append(f"C{x0:.1f} {middle:.1f} {x1:.1f} {middle:.1f} {x1:.1f} {y1:.1f}")
    return " ".join(parts)


def box(sketch: Sketch, number: int) -> Box:
    """Draw one group."""
    group = sketch.groups[number]
    plan = lay_out(*_parts(sketch, number))
    width = max(plan.width + 2 * PADDING, LEAST)
    left, top = (width - plan.width) / 2, HEADER + PADDING
    height = top + plan.height + (0 if EXIT in plan.places else PADDING)
    exit_x = left + plan.places[EXIT][0] if EXIT in plan.places else width / 2
    inner = _edges(sketch, plan) + "".join(_node(sketch.spots[n], n, *plan.places[n]) for n in group.spots)
    markup = (
        f'<rect class="box" width="{width:.1f}" height="{height:.1f}" rx="12"/>{header(sketch, group, width)}'
        f'<g transform="translate({left:.1f} {top:.1f})">{inner}</g>'
    )
    return Box(markup, width, height, exit_x)


def _parts(sketch: Sketch, number: int) -> tuple[list[int], list[Edge]]:
    """The nodes and edges to lay out: the group's own, its entry where it is fed and its exit where it feeds."""
    group = sketch.groups[number]
    inside = set(group.spots)
    edges = [(i if i in inside else ENTRY, n) for n in group.spots for i in sketch.spots[n].inputs]
    nodes = list(group.spots)
    if any(start == ENTRY for start, _ in edges):
        nodes.insert(0, ENTRY)
    if number < len(sketch.groups) - 1:
        nodes.append(EXIT)
        edges.append((group.output, EXIT))
    return nodes, edges


def header(sketch: Sketch, group: Group, width: float) -> str:
    """The title of a box, and what comes out of it."""
    shape = shaped(sketch.spots[group.output].shape)
    return (
        f'<g class="header"><title>{escape(group.summary)}</title><path class="bar" d="M0 {HEADER} V12 Q0 0 12 0 '
        f'H{width - 12:.1f} Q{width:.1f} 0 {width:.1f} 12 V{HEADER} z"/>'
        f'<text class="title" x="14" y="25">{escape(group.title)}</text>'
        f'<text class="shape" x="{width - 14:.1f}" y="25" text-anchor="end">{shape}</text></g>'
    )


def shaped(shape: Sequence[int]) -> str:
    """A shape as it is shown: `8 × 64 × 26 × 26`, or `scalar`."""
    return " × ".join(map(str, shape)) or "scalar"


def _edges(sketch: Sketch, plan: Layout) -> str:
    drawn = []
    for (start, end), points in plan.routes.items():
        if start == ENTRY:  # from the header's lower edge
            points = [(points[0][0], -PADDING), *points[1:]]
        quiet = start >= 0 and not sketch.spots[start].needs
        arrow = "" if end == EXIT else ' marker-end="url(#arrow)"'
        drawn.append(
            f'<path class="edge{" quiet" if quiet else ""}" data-edge="{start} {end}" d="{curve(points)}"{arrow}/>'
        )
    return "".join(drawn)


def _node(spot: Spot, number: int, x: float, y: float) -> str:
    leaf = spot.family == "leaves"
    radius = HEIGHT / 2 if leaf else 8
    classes = f"node {spot.kind.lower() if leaf else spot.family}{' stored' if spot.stored else ''}"
    below = f"→ {spot.stored}" if spot.stored else shaped(spot.shape)
    stripe = "" if leaf else f'<path class="stripe" d="M8 0 Q0 0 0 8 V{HEIGHT - 8} Q0 {HEIGHT} 8 {HEIGHT} z"/>'
    return (
        f'<g class="{classes}" data-node="{number}" transform="translate({x - WIDTH / 2:.1f} {y - HEIGHT / 2:.1f})">'
        f'<rect class="shape-of-node" width="{WIDTH}" height="{HEIGHT}" rx="{radius}"/>{stripe}'
        f'<text class="label" x="{WIDTH / 2}" y="20">{escape(spot.label)}</text>'
        f'<text class="shape" x="{WIDTH / 2}" y="36">{escape(below)}</text></g>'
    )
