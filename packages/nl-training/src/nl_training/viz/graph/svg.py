"""The picture as SVG: each group in a box of its own, the boxes in columns, in colours for light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from itertools import pairwise
from math import log

from nl_training.viz.graph.diagram import GraphView, Group, Sketch
from nl_training.viz.graph.layout import HEIGHT, WIDTH, Edge, Layout, Point, lay_out

HEADER, PADDING, GAP = 40.0, 18.0, 34.0
COLUMN_GAP, HALF_GAP, MARGIN, TITLE = 56.0, 100.0, 40.0, 160.0
LETTER = 8.2  # how wide one is in a box's header, with some room
RATIO = 1.3  # how much wider than high the whole becomes, about
STEPS = 24  # heights of columns that are tried
LABEL, ROOM = 15.0, WIDTH - 22  # how large a label's letters are, and how wide it may be
ASPECT = 0.64  # how wide a letter is, as a part of its height
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
    return (files(__package__) / "style.css").read_text("utf-8")


def svg(sketch: Sketch) -> str:
    """The whole picture, both graphs side by side and every group open, as a file of its own."""
    boxes = [box(sketch, number) for number in range(len(sketch.groups))]
    halves = side_by_side([[boxes[number] for number in sketch.of(half)] for half in sketch.halves])
    parts = []
    for half, placed in zip(sketch.halves, halves, strict=True):
        left = min(p.x for p in placed)
        parts.append(f'<text class="half" x="{left:.1f}" y="{TITLE - 26}">{escape(told(half))}</text>')
        parts += [f'<path class="link" d="{link(a, b)}"/>' for a, b in pairwise(placed)]
        parts += [f'<g transform="translate({p.x:.1f} {p.y:.1f})">{p.box.markup}</g>' for p in placed]
    lines = [
        f'<text class="line" x="{MARGIN}" y="{62 + 17 * i}">{escape(line)}</text>'
        for i, line in enumerate(sketch.lines)
    ]
    right, bottom = size_of(halves)
    width, height = max(right, 7 * max(map(len, sketch.lines))) + MARGIN, bottom + MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="drawing" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}"><style>{style()}</style>{ARROW}'
        f'<rect class="paper" width="100%" height="100%"/>'
        f'<text class="heading" x="{MARGIN}" y="40">{escape(sketch.title)}</text>{"".join(lines + parts)}'
        "</svg>\n"
    )


def told(half: GraphView) -> str:
    """What stands above a graph."""
    return f"{half.name}: {half.nodes} nodes, {duration(half.seconds)} a step"


def duration(seconds: float) -> str:
    """A time as people say it.

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


def side_by_side(halves: Sequence[Sequence[Box]]) -> list[list[Placed]]:
    """All halves beside each other, in columns of such a height that the whole becomes a bit wider than high."""
    boxes = [b for half in halves for b in half]
    lowest, highest = max(b.height for b in boxes), sum(b.height + GAP for b in boxes)

    def placed(step: int) -> list[list[Placed]]:
        limit, left, found = lowest * (highest / lowest) ** (step / STEPS), MARGIN, []
        for half in halves:
            found.append(place(half, left, limit))
            left = size_of(found)[0] + HALF_GAP
        return found

    def unlike(found: list[list[Placed]]) -> float:
        width, height = size_of(found)
        return abs(log(width / height / RATIO))

    return min(map(placed, range(STEPS)), key=unlike)


def size_of(halves: Sequence[Sequence[Placed]]) -> Point:
    """The right and the lower end of all."""
    everything = [p for half in halves for p in half]
    return max(p.x + p.box.width for p in everything), max(p.y + p.box.height for p in everything)


def place(boxes: Sequence[Box], left: float, limit: float) -> list[Placed]:
    """One box below the other, in columns no higher than the limit, from the left on."""
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
    plan = lay_out(*parts(sketch, number))
    words = len(group.title) + len(shaped(sketch.spots[group.output].shape))
    width = max(plan.width + 2 * PADDING, LETTER * words + 2 * PADDING)
    left, top = (width - plan.width) / 2, HEADER + PADDING
    height = top + plan.height + (0 if EXIT in plan.places else PADDING)
    exit_x = left + plan.places[EXIT][0] if EXIT in plan.places else width / 2
    inner = _edges(sketch, plan) + "".join(_node(sketch, n, *plan.places[n]) for n in group.spots)
    markup = (
        f'<rect class="box" width="{width:.1f}" height="{height:.1f}" rx="12"/>{header(sketch, group, width)}'
        f'<g transform="translate({left:.1f} {top:.1f})">{inner}</g>'
    )
    return Box(markup, width, height, exit_x)


def parts(sketch: Sketch, number: int) -> tuple[list[int], list[Edge]]:
    """The nodes and edges to lay out: the group's own, its entry where it is fed and its exit where it feeds."""
    group = sketch.groups[number]
    inside = set(group.spots)
    edges = [(i if i in inside else ENTRY, n) for n in group.spots for i in sketch.spots[n].inputs]
    nodes = list(group.spots)
    if any(start == ENTRY for start, _ in edges):
        nodes.insert(0, ENTRY)
    if any(later.half == group.half for later in sketch.groups[number + 1 :]):
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


def _node(sketch: Sketch, number: int, x: float, y: float) -> str:
    spot = sketch.spots[number]
    leaf = spot.family == "leaves"
    radius, inset = (HEIGHT / 2, HEIGHT / 2) if leaf else (8, 14.0)
    middle = WIDTH / 2 + (0 if leaf else 3)
    size = min(LABEL, ROOM / (ASPECT * len(spot.label)))
    classes = f"node {spot.kind.lower() if leaf else spot.family}{' stored' if spot.stored else ''}"
    below = f"→ {spot.stored}" if spot.stored else shaped(spot.shape)
    stripe = "" if leaf else f'<path class="stripe" d="M8 0 Q0 0 0 8 V{HEIGHT - 8} Q0 {HEIGHT} 8 {HEIGHT} z"/>'
    return (
        f'<g class="{classes}" data-node="{number}" transform="translate({x - WIDTH / 2:.1f} {y - HEIGHT / 2:.1f})">'
        f'<rect class="shape-of-node" width="{WIDTH}" height="{HEIGHT}" rx="{radius}"/>{stripe}'
        f'<text class="label" font-size="{size:.1f}" x="{middle}" y="20">{escape(spot.label)}</text>'
        f'<text class="shape" x="{middle}" y="35">{escape(below)}</text>'
        f"{heat(sketch.shares[number], inset, HEIGHT - 5, WIDTH - 2 * inset)}</g>"
    )


def heat(share: float, x: float, y: float, width: float) -> str:
    """The bar that tells what share of the slowest one's time something takes; none where it takes next to none."""
    if share < 0.01:
        return ""
    return f'<rect class="heat" x="{x}" y="{y}" width="{width * share:.1f}" height="3" rx="1.5"/>'
