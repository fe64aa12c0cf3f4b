"""Graphs of nodes, and passes that run them forward and backward."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from nl_nodes.context import Context, WorkerGroup
from nl_nodes.device.backend import backend_of
from nl_nodes.errors import ShapeError, UserError
from nl_nodes.node import Node
from nl_nodes.nodes.leaves import Buffer, Constant, Input, Leaf, Parameter
from nl_nodes.shapes import unbroadcast
from nl_nodes.typing import Array, Shape


class Graph:
    """The directed acyclic graph of all nodes that some outputs depend on.

    Args:
        outputs: the nodes whose arrays `forward` returns.
        updates: nodes that compute new values of buffers, stored after each `forward`.

    Attributes:
        order: all nodes in topological order.
        leaves: inputs, parameters and buffers by name.
        needs: the nodes whose gradient is wanted.
        passes: the index of the next pass, which seeds random nodes; set it to replay a pass.
        uses: the number of uses of each node's array in a pass, results and updates included.

    Raises:
        UserError: when two leaves share a name.

    >>> import numpy as np
    >>> from nl_nodes import Dot, Input, Parameter
    >>> graph = Graph(Dot(Input("x"), Parameter(np.array([[2.0], [3.0]]), name="w")))
    >>> graph.forward(x=np.array([[1.0, 10.0]]))
    array([[32.]])
    >>> graph.backward(np.array([[1.0]]))["w"].tolist()
    [[1.0], [10.0]]
    """

    def __init__(self, *outputs: Node, updates: Mapping[Buffer, Node] | None = None) -> None:
        self.outputs = outputs
        self.updates = dict(updates or {})
        self.order = topological_order((*outputs, *self.updates.values()))
        self.leaves = self._named_leaves()
        self.needs = self._trainable()
        self.passes = 0
        self.uses = self._count_uses()
        self._last: Pass | None = None

    def forward(self, **feeds: Any) -> Any:
        """Run every node once and return the output, or a tuple of several.

        Args:
            feeds: each input's array by name; a parameter or buffer that is named has this value in this pass.
        """
        self._last = self.run(**feeds)
        self._last.store_updates()
        self.passes += 1
        values = self._last.results
        return values[0] if len(values) == 1 else values

    def backward(self, *dys: Any) -> dict[str, Array]:
        """Return the gradients of the last forward pass by leaf name; see `Pass.backward`."""
        if self._last is None:
            raise UserError("Graph.backward: run forward first")
        return self._last.backward(*dys)

    def run(self, **feeds: Any) -> Pass:
        """Run one forward pass without storing buffers or counting the pass."""
        return Pass(self, feeds)

    def shapes(self, feeds: Mapping[str, Shape]) -> dict[Node, Shape]:
        """Infer every node's output shape for inputs of these shapes."""
        shapes: dict[Node, Shape] = {}
        for node in self.order:
            if isinstance(node, Leaf):
                fed = node.name in feeds and not isinstance(node, Constant)
                shapes[node] = feeds[node.name] if fed else _leaf_value(node).shape
            else:
                shapes[node] = node.infer(*[shapes[n] for n in node.inputs])
        return shapes

    def known_shapes(self) -> dict[Node, Shape] | None:
        """Return every node's shape, in the last pass or else as wired; None where an input's is unknown."""
        if self._last is not None:
            feeds = {leaf.name: self._last.shapes[leaf] for leaf in self.leaves.values()}
        else:
            feeds = {leaf.name: leaf.shape for leaf in self.leaves.values() if leaf.shape is not None}
        return self.shapes(feeds) if feeds.keys() == self.leaves.keys() else None

    def __repr__(self) -> str:
        shapes = self.known_shapes() or {}
        inputs = [f"{name} {shapes.get(leaf, leaf.shape or '(?)')}" for name, leaf in self.leaves.items()]
        outputs = [str(shapes.get(node, "(?)")) for node in self.outputs]
        return f"Graph({', '.join(inputs)} -> {', '.join(outputs)}; {len(self.order)} nodes)"

    def backward_order(self) -> Iterator[Node]:
        """Yield the nodes that need a gradient, leaves included, each after all its consumers."""
        return (node for node in reversed(self.order) if node in self.needs)

    def _named_leaves(self) -> dict[str, Leaf]:
        leaves: dict[str, Leaf] = {}
        for node in self.order:
            if isinstance(node, Input | Parameter | Buffer):
                if node.name in leaves:
                    raise UserError(f"two leaves of the graph are named {node.name!r}: give each its own name")
                leaves[node.name] = node
        return leaves

    def _trainable(self) -> set[Node]:
        """Return the nodes that a trainable leaf reaches, so that they need a gradient."""
        found: set[Node] = set()
        for node in self.order:
            reached = any(n in found for n in node.inputs) and not node.constant
            if reached or (isinstance(node, Leaf) and node.trainable):
                found.add(node)
        return found

    def _count_uses(self) -> Counter[Node]:
        """Count the uses of each node's array in a pass, results and updates included."""
        uses = Counter(n for node in self.order for n in node.inputs)
        uses.update((*self.outputs, *self.updates.values()))
        return uses


class Pass:
    """One forward pass of a graph, with the state for its backward pass.

    Attributes:
        results: copies of the outputs' arrays.
        updates: the new values of the buffers.
        shapes: the shape of each leaf.
    """

    def __init__(self, graph: Graph, feeds: Mapping[str, Any]) -> None:
        unknown = sorted(set(feeds) - set(graph.leaves))
        if unknown:
            raise UserError(f"the graph has no input {unknown[0]!r}: it takes {', '.join(sorted(graph.leaves))}")
        self.graph = graph
        self.index = graph.passes
        self.backend = backend_of([*feeds.values(), *(n.value for n in graph.order if isinstance(n, Leaf))])
        self._group = WorkerGroup(self.backend.xp)
        self._contexts: dict[Node, Context] = {}
        self.shapes: dict[Node, Shape] = {}
        values = self._run(feeds)
        # Copies: results must alias neither inputs nor arrays saved for backward.
        self.results = tuple(values[node].copy() for node in graph.outputs)
        self.updates = {buffer: values[node] for buffer, node in graph.updates.items()}

    def _run(self, feeds: Mapping[str, Any]) -> dict[Node, Array]:
        values: dict[Node, Array] = {}
        uses = self.graph.uses.copy()
        for node in self.graph.order:
            if isinstance(node, Leaf):
                values[node] = self._leaf(node, feeds)
                self.shapes[node] = values[node].shape
                continue
            inputs = tuple(values[n] for n in node.inputs)
            node.infer(*[x.shape for x in inputs])  # raises where the shapes do not fit
            values[node] = self._forward(node, inputs)
            for n in node.inputs:
                uses[n] -= 1
                if not uses[n]:
                    del values[n]
        return values

    def _leaf(self, leaf: Leaf, feeds: Mapping[str, Any]) -> Array:
        fed = leaf.name in feeds and not isinstance(leaf, Constant)
        array = self.backend.array(feeds[leaf.name] if fed else _leaf_value(leaf))
        refuse_other_shape(leaf, tuple(array.shape))
        return array

    def _forward(self, node: Node, inputs: tuple[Array, ...]) -> Array:
        ctx = self._new_kept(node, inputs)
        output = self._output(node, ctx, inputs)
        if node in self.graph.needs:
            if "inputs" in node.saves:
                ctx.inputs = inputs
            if "output" in node.saves:
                ctx.output = output
            self._contexts[node] = ctx
        return output

    def _output(self, node: Node, ctx: Context, inputs: tuple[Array, ...]) -> Array:
        return node.forward(ctx, *inputs)

    def _new_kept(self, node: Node, inputs: tuple[Array, ...]) -> Context:
        ctx = Context()
        ctx.xp = self.backend.xp
        ctx.group = self._group
        ctx.random_bits = self.backend.random_bits
        ctx.pass_index = self.index
        ctx.shapes = tuple(x.shape for x in inputs)
        ctx.needs = tuple(n in self.graph.needs for n in node.inputs)
        return ctx

    def store_updates(self) -> None:
        """Write the new values of the buffers."""
        for buffer, value in self.updates.items():
            buffer.value[...] = value

    def backward(self, *dys: Any) -> dict[str, Array]:
        """Return the gradients of inputs and parameters by name, as new arrays.

        Args:
            dys: the upstream gradient of each output, in order; None or a missing one counts as zero.
        """
        grads = self._seed(dys)
        for node in self.graph.backward_order():
            if node in grads and not isinstance(node, Leaf):
                self._backward(node, grads)
        return {name: self._leaf_gradient(leaf, grads) for name, leaf in self.graph.leaves.items() if leaf.trainable}

    def _seed(self, dys: Iterable[Any]) -> dict[Node, Array]:
        grads: dict[Node, Array] = {}
        for node, dy, y in zip(self.graph.outputs, dys, self.results, strict=False):
            if dy is None:
                continue
            array = dy if self.backend.owns(dy) else self.backend.array(dy, y.dtype)
            if tuple(array.shape) != tuple(y.shape):
                raise ShapeError(f"the upstream gradient must have the output's shape {y.shape}, got {array.shape}")
            _accumulate(grads, node, array)
        return grads

    def _backward(self, node: Node, grads: dict[Node, Array]) -> None:
        for n, dx in zip(node.inputs, input_gradients(node, self._contexts[node], grads.pop(node)), strict=True):
            if dx is not None:
                _accumulate(grads, n, dx)

    def _leaf_gradient(self, leaf: Leaf, grads: dict[Node, Array]) -> Array:
        # A copy: a gradient must alias neither the upstream gradient nor another leaf's.
        if leaf in grads:
            return grads[leaf].copy()
        return self.backend.xp.zeros(self.shapes[leaf], dtype=self.results[0].dtype)


def topological_order(outputs: Iterable[Node]) -> tuple[Node, ...]:
    """Return all nodes that the outputs depend on, each after its inputs, without recursion."""
    order: dict[Node, None] = {}
    for output in outputs:
        stack = [output]
        while stack:
            node = stack[-1]
            pending = [n for n in node.inputs if n not in order]
            if pending:
                stack.extend(reversed(pending))
            else:
                order[stack.pop()] = None
    return tuple(order)


def refuse_other_shape(leaf: Leaf, shape: Shape) -> None:
    """Refuse an array for a leaf whose shape is known to be another."""
    if leaf.shape is not None and shape != leaf.shape:
        raise ShapeError(f"{leaf!r} must have shape {leaf.shape}, got {shape}")


def input_gradients(node: Node, ctx: Context, dy: Array) -> tuple[Array | None, ...]:
    """Return the gradient of each input in the input's shape; None where it has none or none is wanted.

    Raises:
        ShapeError: where backward returns a gradient of another shape.
    """
    dxs = node.backward(ctx, dy)
    dxs = dxs if isinstance(dxs, tuple) else (dxs,)
    return tuple(
        _in_shape(node, dx, shape) if wanted and dx is not None else None
        for dx, shape, wanted in zip(dxs, ctx.shapes, ctx.needs, strict=True)
    )


def _in_shape(node: Node, dx: Array, shape: Shape) -> Array:
    if node.broadcasts:
        dx = unbroadcast(dx, shape)
    if tuple(dx.shape) != tuple(shape):
        raise ShapeError(f"{node!r}.backward: gradient {dx.shape} for an input {shape}")
    return dx


def _leaf_value(leaf: Leaf) -> Array:
    if leaf.value is None:
        raise UserError(f"the graph's input {leaf.name!r} is not fed")
    return leaf.value


def _accumulate(grads: dict[Node, Array], node: Node, dy: Array) -> None:
    grads[node] = grads[node] + dy if node in grads else dy
