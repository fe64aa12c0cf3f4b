"""The picture as a page of its own: pan, zoom, open and close layers, click a node for all that is known of it.

The page asks for nothing: styles, script, picture and numbers are in the one file.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from nl_training.drawing.sketch import Group, Sketch, Spot
from nl_training.drawing.svg import ARROW, COLUMN_GAP, GAP, RATIO, Box, box, shaped, style

SHUT = (270.0, 54.0)  # width and height of a closed group
# A picture of more nodes than this begins with its layers closed.
MANY = 100


def page(sketch: Sketch) -> str:
    """The whole page as HTML."""
    boxes = [box(sketch, number) for number in range(len(sketch.groups))]
    groups = [_group(sketch, number, b) for number, b in enumerate(boxes)]
    return Template(_read("page.html")).substitute(
        title=escape(sketch.title),
        lines="".join(f"<p>{escape(line)}</p>" for line in sketch.lines),
        legend="".join(_legend(sketch)),
        style=style() + _read("page.css"),
        picture=ARROW + '<g id="stage"><g id="links"></g>' + "".join(groups) + "</g>",
        facts=json.dumps(_facts(sketch, boxes)).replace("</", "<\\/"),
        script=_read("page.js"),
    )


def _read(name: str) -> str:
    return (files(__package__) / name).read_text()


def _legend(sketch: Sketch) -> list[str]:
    tones = {spot.kind.lower() if spot.family == "leaves" else spot.family: None for spot in sketch.spots}
    return [f'<li class="node {tone}">{tone}</li>' for tone in tones]


def _group(sketch: Sketch, number: int, open_box: Box) -> str:
    group = sketch.groups[number]
    width, height = SHUT
    shut = (
        f'<rect class="box" width="{width}" height="{height}" rx="12"/>'
        f'<text class="title" x="14" y="23">{escape(group.title)}</text>'
        f'<text class="shape" x="14" y="41">{escape(_summary(sketch, group))}</text>'
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
    return {
        "open": len(sketch.spots) <= MANY,
        "shut": {"width": SHUT[0], "height": SHUT[1], "exit": SHUT[0] / 2},
        "gap": GAP,
        "columnGap": COLUMN_GAP,
        "ratio": RATIO,
        "groups": [
            {"title": g.title, "spots": g.spots, "width": b.width, "height": b.height, "exit": b.exit}
            for g, b in zip(sketch.groups, boxes, strict=True)
        ],
        "spots": [_spot(spot) for spot in sketch.spots],
    }


def _spot(spot: Spot) -> dict[str, Any]:
    return {
        **asdict(spot),
        "shape": shaped(spot.shape),
        "memory": _memory(spot.bytes),
        "attributes": list(spot.attributes.items()),
    }


def _memory(count: int) -> str:
    """A number of bytes as people say it.

    >>> _memory(6272)
    '6.27 kB'
    """
    power = min((len(str(count)) - 1) // 3, 3)
    return f"{count / 1000**power:.3g} {('bytes', 'kB', 'MB', 'GB')[power]}"
