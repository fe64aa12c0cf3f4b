"""Names of parameters and buffers."""

from __future__ import annotations

from collections.abc import Sequence

from nl_layers import Layer
from nl_nodes import Buffer, Parameter


def name_leaves(layers: Sequence[tuple[Layer, int]]) -> tuple[dict[str, Parameter], dict[str, Buffer]]:
    """Name the layers' leaves W1, b1, gamma1, ... by the layers' numbers; return parameters and buffers by name."""
    short = {"weight": "W", "bias": "b"}
    parameters: dict[str, Parameter] = {}
    buffers: dict[str, Buffer] = {}
    for layer, number in layers:
        for attribute, parameter in layer.parameters.items():
            parameter.name = f"{short.get(attribute, attribute)}{number}"
            parameters[parameter.name] = parameter
        for attribute, buffer in layer.buffers.items():
            buffer.name = f"{attribute}{number}"
            buffers[buffer.name] = buffer
    return parameters, buffers
