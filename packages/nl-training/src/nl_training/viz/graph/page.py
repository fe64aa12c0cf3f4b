"""The picture as a page of its own: pan, zoom, open and close layers, click a node for all that is known of it.

The graph as it is defined stands beside the compiled one; what is clicked in one lights up what it is made of, or
became, in the other.

The page asks for nothing: styles, script, picture and numbers are in the one file.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from nl_nodes.compiler import Row
from nl_training.viz.graph.diagram import Group, NodeView, Sketch
from nl_training.viz.graph.svg import (
    ARROW,
    COLUMN_GAP,
    GAP,
    HALF_GAP,
    STEPS,
    Box,
    box,
    duration,
    heat,
    shaped,
    style,
    told,
)

SHUT = (290.0, 58.0)  # width and height of a closed group
# A picture of more nodes than this would begin with letters too small to read: its layers are closed at first.
MANY = 60


def page(sketch: Sketch) -> str:
    """The whole page as HTML."""
    boxes = [box(sketch, number) for number in range(len(sketch.groups))]
    groups = [_group(sketch, number, b) for number, b in enumerate(boxes)]
    return Template(_read("page.html")).substitute(
        title=escape(sketch.title),
        lines="".join(f"<p>{escape(line)}</p>" for line in sketch.lines),
        legend="".join(_legend(sketch)),
        style=style() + _read("page.css"),
        picture=ARROW + '<g id="stage"><g id="links"></g>' + "".join([*_heads(sketch), *groups]) + "</g>",
        facts=json.dumps(_facts(sketch, boxes)).replace("</", "<\\/"),
        script=_read("page.js"),
    )


def _read(name: str) -> str:
    return (files(__package__) / name).read_text("utf-8")


def _legend(sketch: Sketch) -> list[str]:
    tones = {spot.kind.lower() if spot.family == "leaves" else spot.family: None for spot in sketch.spots}
    hot = '<li class="hot">time, beside the slowest</li>'
    return [*(f'<li class="node {tone}">{tone}</li>' for tone in tones), hot]


def _heads(sketch: Sketch) -> list[str]:
    return [f'<text class="half">{escape(told(half))}</text>' for half in sketch.halves]


def _group(sketch: Sketch, number: int, open_box: Box) -> str:
    group = sketch.groups[number]
    width, height = SHUT
    seconds = sketch.seconds(group)
    slowest = max(sketch.seconds(g) for g in sketch.groups if g.half == group.half)
    shut = (
        f'<rect class="box" width="{width}" height="{height}" rx="12"/>'
        f'<text class="title" x="14" y="23">{escape(group.title)}</text>'
        f'<text class="shape" x="{width - 14}" y="23" text-anchor="end">{duration(seconds)}</text>'
        f'<text class="shape" x="14" y="41">{escape(_summary(sketch, group))}</text>'
        f"{heat(seconds / slowest, 14, height - 9, width - 28)}"
        f"<title>{escape(group.summary)}</title>"
    )
    return (
        f'<g class="group" data-group="{number}"><g class="open">{open_box.markup}</g>'
        f'<g class="shut header">{shut}</g></g>'
    )


def _summary(sketch: Sketch, group: Group) -> str:
    shape = shaped(sketch.spots[group.output].shape)
    return f"{shape}, {group.parameters:,} weights" if group.parameters else shape


def _facts(sketch: Sketch, boxes: list[Box]) -> dict[str, Any]:
    """What the script needs to know."""
    halves = [half.name for half in sketch.halves]
    return {
        "open": len(sketch.spots) <= MANY,
        "shut": {"width": SHUT[0], "height": SHUT[1], "exit": SHUT[0] / 2},
        "gap": GAP,
        "columnGap": COLUMN_GAP,
        "halfGap": HALF_GAP,
        "steps": STEPS,
        "halves": [asdict(half) for half in sketch.halves],
        "groups": [
            {
                "half": halves.index(g.half), "title": g.title, "spots": g.spots,
                "width": b.width, "height": b.height, "exit": b.exit,
            }
            for g, b in zip(sketch.groups, boxes, strict=True)
        ],
        "spots": [_spot(spot) for spot in sketch.spots],
    }  # fmt: skip


def _spot(spot: NodeView) -> dict[str, Any]:
    return {
        **asdict(spot),
        "shape": shaped(spot.shape),
        "memory": _memory(spot.bytes),
        "attributes": list(spot.attributes.items()),
        "way": next((row.way for row in spot.costs), ""),
        "costs": {row.direction: _cost(row) for row in spot.costs},
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
    """A number of bytes as people say it.

    >>> _memory(6272)
    '6.27 kB'
    """
    power = min((len(str(count)) - 1) // 3, 3)
    return f"{count / 1000**power:.3g} {('bytes', 'kB', 'MB', 'GB')[power]}"
