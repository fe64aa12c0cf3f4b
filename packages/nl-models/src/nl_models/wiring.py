"""`Wiring`: layers and a loss, wired into one graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nl_layers import Layer, Loss, Mode, SoftmaxWithLoss
from nl_layers.module import Module, refuse_unknown_leaves
from nl_models.names import layer_paths
from nl_nodes import Graph, Input, Node, ShapeError, UserError
from nl_nodes.node import assign_scope
from nl_nodes.typing import Shape


class Wiring:
    """A sequence of layers that ends in logits, and a loss on them.

    Args:
        layers: pairs of a layer and the number in its parameters' names.
        spec: name, input_shape and classes, with the other arguments of `build` that create the network again.
        loss: loss on the logits.

    Raises:
        UserError: for the softmax of a single logit, which learns nothing, and for a loss with parameters or buffers.

    Attributes:
        layers: the layers, without those inside them.
    """

    def __init__(self, layers: Sequence[tuple[Layer, int]], spec: Mapping[str, Any], loss: Loss) -> None:
        self.spec = dict(spec)
        self.name: str = self.spec["name"]
        self.input_shape: Shape = tuple(self.spec["input_shape"])
        self.classes: int = self.spec["classes"]
        self.layers = [layer for layer, _ in layers]
        self._numbers = [number for _, number in layers]
        self.loss_layer = loss
        if self.classes == 1 and isinstance(loss, SoftmaxWithLoss):
            raise UserError(f"{self.name}: the softmax of one logit is 1: give loss=SigmoidWithLoss(), or more classes")
        if leaves := [*loss.parameters, *loss.buffers]:
            raise UserError(f"{self.name}: {type(loss).__name__} has {leaves[0]}: what is trained belongs in a layer")

    @property
    def all_layers(self) -> list[Module]:
        """The layers, each followed by those inside it, in the order of wiring."""
        return [part for layer in self.layers for part in layer.tree()]

    def wire(self, batch: int, train: bool, *, rows: bool = False) -> Graph:
        """Return the graph for a batch: (loss, logits) in training, (logits,) in inference.

        Args:
            batch: number of images.
            train: use the training wiring, else that of inference.
            rows: whether the labels are rows (N, classes) instead of class indices (N,).

        Raises:
            ShapeError: where the input shape does not fit a layer; the message names the layer.
        """
        mode = Mode(train, paths=layer_paths(zip(self.layers, self._numbers, strict=True)))
        logits = self._logits(Input("x", (batch, *self.input_shape), gradient=False), mode)
        if not train:
            return Graph(logits)
        t = Input("t", self._label_shape(batch, rows), gradient=False)
        loss = mode.wire(self.loss_layer, logits, t)
        if loss.shape != ():
            raise ShapeError(f"{type(self.loss_layer).__name__} gives shape {loss.shape}: a loss is one number")
        assign_scope([loss], type(self.loss_layer).__name__)
        graph = Graph(loss, logits, updates=mode.updates)
        refuse_unknown_leaves(graph, self.layers)
        return graph

    def _label_shape(self, batch: int, rows: bool) -> Shape:
        return (batch, self.classes) if rows else (batch,)

    def _logits(self, x: Node, mode: Mode) -> Node:
        for number, layer in enumerate(self.layers, 1):
            try:
                x = mode.wire(layer, x)
            except ShapeError as error:
                where = f"{self.name}: layer {number} ({type(layer).__name__}) on input shape {self.input_shape}"
                raise ShapeError(f"{where}: {error}") from None
        return x

    def _wiring(self) -> tuple[Any, ...]:
        return (*self.layers, self.loss_layer, sum(layer.changes for layer in (*self.layers, self.loss_layer)))
