"""Export of networks in inference form to ONNX.

Each layer translates to one ONNX operator, or two. Register your own layer with `translate.register`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import singledispatch
from pathlib import Path
from typing import Any

from nl_layers import (
    Affine,
    AveragePooling,
    BatchNormalization,
    Convolution,
    Dropout,
    GlobalAveragePooling,
    Layer,
    Mode,
    Pooling,
    Relu,
    Residual,
    Sequential,
    Sigmoid,
    Tanh,
    ZeroPadShortcut,
)
from nl_models.network import Network
from nl_nodes import Buffer, Input, Node, Parameter, UserError
from nl_nodes.files import atomic_write
from nl_nodes.typing import Array, Shape

# Supported by runtimes from 2022 on; the operators used here have not changed since.
OPSET, IR_VERSION = 17, 8


class Translation:
    """A graph of ONNX operators under construction, from "x" to "logits".

    Args:
        host: copies an array to the host.

    Attributes:
        last: name of the output that the next operator takes; set it to begin a branch.
    """

    def __init__(self, host: Callable[[Array], Any]) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self._host = host
        self.last = "x"

    def add(self, operator: str, *others: Parameter | Buffer | str | list[int] | None, **attributes: Any) -> None:
        """Append an operator on the last output.

        Args:
            operator: ONNX operator name.
            others: further inputs: arrays and lists, stored in the model, and names of outputs; None for an absent one.
            attributes: ONNX attributes.
        """
        from onnx import helper

        name = f"{operator}_{len(self.nodes) + 1}"
        given = [other for other in others if other is not None]
        inputs = [self.last, *(self._hold(other, f"{name}.{place}") for place, other in enumerate(given, 1))]
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        self.last = name

    def scale(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Append (x - mean) / std, with a mean and a std per channel."""
        from onnx import TensorProto, helper

        for operator, name, values in (("Sub", "mean", mean), ("Div", "std", std)):
            self.weights.append(helper.make_tensor(name, TensorProto.FLOAT, (1, len(values), 1, 1), values))
            self.nodes.append(helper.make_node(operator, [self.last, name], [f"x-{name}"], name=operator))
            self.last = f"x-{name}"

    def _hold(self, other: Parameter | Buffer | str | list[int], name: str) -> str:
        """Return the name of an operator's input; store arrays, and lists by this name."""
        from onnx import TensorProto, helper, numpy_helper

        if isinstance(other, str):
            return other
        if isinstance(other, list):
            self.weights.append(helper.make_tensor(name, TensorProto.INT64, [len(other)], other))
            return name
        self.weights.append(numpy_helper.from_array(self._host(other.value).astype("float32"), other.name))
        return other.name

    def end(self) -> None:
        """Name the last operator's output "logits"."""
        if not self.nodes:
            self.add("Identity")
        self.nodes[-1].output[0] = "logits"


@singledispatch
def translate(layer: Layer, graph: Translation, shape: Shape) -> None:
    """Append a layer's inference form to an ONNX graph.

    Args:
        layer: layer to translate.
        graph: graph to append to.
        shape: shape of the layer's input, with batch size 1.

    Raises:
        UserError: for a layer without a registered translation.
    """
    raise UserError(f"{type(layer).__name__} has no ONNX form: add one with nl_models.onnx.translate.register")


@translate.register
def _(layer: Affine, graph: Translation, shape: Shape) -> None:
    _flatten(graph, shape)
    graph.add("Gemm", layer.weight, layer.bias)


@translate.register
def _(layer: Convolution, graph: Translation, shape: Shape) -> None:
    graph.add("Conv", layer.weight, layer.bias, strides=[layer.stride] * 2, pads=[layer.pad] * 4)


@translate.register
def _(layer: Pooling, graph: Translation, shape: Shape) -> None:
    window = [layer.height, layer.width]
    graph.add("MaxPool", kernel_shape=window, strides=[layer.stride] * 2, pads=[layer.pad] * 4)


@translate.register
def _(layer: AveragePooling, graph: Translation, shape: Shape) -> None:
    window = {"kernel_shape": [layer.height, layer.width], "strides": [layer.stride] * 2}
    graph.add("AveragePool", **window, pads=[layer.pad] * 4, count_include_pad=1)


@translate.register
def _(layer: GlobalAveragePooling, graph: Translation, shape: Shape) -> None:
    graph.add("GlobalAveragePool")
    graph.add("Flatten", axis=1)


@translate.register
def _(layer: ZeroPadShortcut, graph: Translation, shape: Shape) -> None:
    graph.add("Slice", [0, 0], list(shape[2:]), [2, 3], [layer.stride] * 2)
    graph.add("Pad", [0] * 5 + [layer.filters - shape[1], 0, 0])


@translate.register
def _(layer: Sequential, graph: Translation, shape: Shape) -> None:
    _chain(layer.layers, graph, shape)


@translate.register
def _(layer: Residual, graph: Translation, shape: Shape) -> None:
    start = graph.last
    translate(layer.branch, graph, shape)
    branch, graph.last = graph.last, start
    if layer.shortcut is not None:
        translate(layer.shortcut, graph, shape)
    graph.add("Add", branch)


@translate.register
def _(layer: BatchNormalization, graph: Translation, shape: Shape) -> None:
    if layer.gamma.shape != shape[1:2]:  # one gamma per feature of flattened images
        _flatten(graph, shape)
    leaves = (layer.gamma, layer.beta, layer.running_mean, layer.running_var)
    graph.add("BatchNormalization", *leaves, epsilon=layer.eps)


@translate.register
def _(layer: Dropout, graph: Translation, shape: Shape) -> None:
    if not layer.inverted:
        raise UserError("Dropout(inverted=False) has no ONNX form: only inverted dropout is the identity in inference")


@translate.register(Relu)
@translate.register(Sigmoid)
@translate.register(Tanh)
def _(layer: Layer, graph: Translation, shape: Shape) -> None:
    graph.add(type(layer).__name__)


def _chain(layers: Iterable[Layer], graph: Translation, shape: Shape) -> None:
    """Append layers one after another, on an input of this shape."""
    x: Node = Input("x", shape)
    for layer in layers:
        assert x.shape is not None  # all shapes are known
        translate(layer, graph, x.shape)
        x = layer.wire(x, mode=Mode(train=False))  # for the shape alone


def _flatten(graph: Translation, shape: Shape) -> None:
    if len(shape) > 2:
        graph.add("Flatten", axis=1)


Scaling = tuple[Sequence[float], Sequence[float]]


def to_onnx(net: Network, notes: Mapping[str, str] | None = None, scaling: Scaling | None = None) -> Any:
    """Return a network in inference form as an `onnx.ModelProto` from images x (N, C, H, W) to logits (N, classes).

    Args:
        net: network to export; the model holds copies of its weights, always in float32.
        notes: metadata of the model.
        scaling: mean and standard deviation per channel, applied by the model, which then takes raw pixels; None for a
            model with the network's own input.

    Raises:
        UserError: where the package onnx is missing, or a layer has no ONNX form.
    """
    try:
        import onnx
        from onnx import TensorProto, helper
    except ImportError:
        raise UserError("exporting needs the package onnx: python -m pip install -c constraints.txt onnx") from None
    graph = Translation(net.device.host)
    if scaling is not None:
        graph.scale(*scaling)
    _chain(net.layers, graph, (1, *net.input_shape))
    graph.end()
    images = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *net.input_shape])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", net.classes])
    model = helper.make_model(
        helper.make_graph(graph.nodes, net.name, [images], [logits], graph.weights),
        producer_name="nl-models",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    helper.set_model_props(model, dict(notes or {}))
    onnx.checker.check_model(model, full_check=True)
    return model


def save_onnx(
    net: Network, path: str | Path, notes: Mapping[str, str] | None = None, scaling: Scaling | None = None
) -> None:
    """Write `to_onnx(net, notes, scaling)` to a file atomically."""
    model = to_onnx(net, notes, scaling)
    try:
        with atomic_write(Path(path)) as file:
            file.write(model.SerializeToString())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
