"""The base class of all nodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any, ClassVar, Self

from nl_nodes.context import Context, NotShardable
from nl_nodes.errors import ShapeError
from nl_nodes.operators import Operators
from nl_nodes.typing import Array, Shape

if TYPE_CHECKING:
    from nl_nodes.cases import Case


class Node(Operators):
    """One operation of a graph, with its gradient.

    A subclass defines `infer` (the output's shape), `forward` and `backward`, in array maths alone, and `cases`, the
    inputs on which its gradient is verified. It does not know its neighbours: the graph passes arrays in and
    accumulates the gradients.

    Attributes:
        inputs: the nodes whose outputs this one takes.
        shape: the output's shape where the inputs' shapes are known before a pass, else None.
        saves: what the graph keeps for backward, of "inputs", "output" and "saved"; it frees the rest after forward.
        unread: indices of inputs whose values backward does not read, though it saves "inputs".
        grad_included_in_first: indices of inputs derived from input 0, whose gradient input 0's already includes.
        constant: whether the inputs have no gradient.
        broadcasts: whether backward may return gradients of the broadcast shape, for the graph to reduce.
        path: the layer that the node belongs to (see `assign_scope`); has no effect on the computation.
    """

    registry: ClassVar[dict[str, type[Node]]] = {}
    saves: ClassVar[tuple[str, ...]] = ()
    unread: ClassVar[tuple[int, ...]] = ()
    grad_included_in_first: ClassVar[tuple[int, ...]] = ()
    constant: ClassVar[bool] = False
    broadcasts: ClassVar[bool] = False
    path: str = ""

    inputs: tuple[Node, ...]
    shape: Shape | None

    def __init_subclass__(cls, *, abstract: bool = False) -> None:
        """Register the subclass, so that verification finds it."""
        if not abstract:
            Node.registry[cls.__name__] = cls

    def __init__(self, *inputs: Node) -> None:
        self._connect(inputs)

    def _connect(self, inputs: tuple[Node, ...]) -> None:
        self.inputs = inputs
        shapes = [node.shape for node in inputs]
        known = [shape for shape in shapes if shape is not None]
        self.shape = self.infer(*known) if inputs and None not in shapes else None

    @property
    def attributes(self) -> dict[str, Any]:
        """The settings of the operation by name; with the class they determine what it computes from its inputs."""
        return {name: value for name, value in vars(self).items() if name not in WIRING}

    def replace(self, inputs: Sequence[Node] | None = None, **attributes: Any) -> Self:
        """Return the same operation with other inputs or settings, and its shape inferred anew.

        Args:
            inputs: the new inputs; None keeps the old ones.
            attributes: the settings to change.
        """
        twin = copy(self)
        vars(twin).update(attributes)
        twin._connect(self.inputs if inputs is None else tuple(inputs))
        return twin

    @property
    def recomputable(self) -> bool:
        """Whether a plan may run forward again in backward rather than keep a large output; never of a partial sum."""
        return False

    def infer(self, *shapes: Shape) -> Shape:
        """Return the output's shape for these input shapes; raise `ShapeError` where they don't fit."""
        raise NotImplementedError

    def forward(self, ctx: Context, *inputs: Array) -> Array:
        """Return the output for these inputs, which must not be changed."""
        raise NotImplementedError

    def backward(self, ctx: Context, dy: Array) -> Array | tuple[Array | None, ...]:
        """Return the gradient of each input from the output's gradient, which must not be changed."""
        raise NotImplementedError

    def batch_axis(self, shapes: tuple[Shape, ...], axes: tuple[int | None, ...]) -> int | None:
        """Return the output's batch axis from each input's (None: it has none).

        Sample i of the output may depend only on sample i of the inputs; or the output is the sum of the outputs for
        each part of the batch, and the result is `PARTIAL_SUM`.

        Raises:
            NotShardable: where neither holds; a graph with such a node runs on one worker.
        """
        raise NotShardable(type(self).__name__)

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """Yield the inputs on which the gradient is verified; a node without any fails the tests."""
        return iter(())

    def misfit(self, why: str, *shapes: Shape) -> ShapeError:
        """Return the error for input shapes that don't fit this node."""
        return ShapeError(f"{type(self).__name__}: {why}, got {' and '.join(map(str, shapes))}")

    def __repr__(self) -> str:
        return type(self).__name__ + ("" if self.shape is None else str(self.shape))


WIRING = ("inputs", "shape", "path")
"""The instance variables of a node that are no settings of its operation: its place in the graph."""


def assign_scope(nodes: Iterable[Node], path: str) -> None:
    """Set the path of these nodes and of all they depend on, down to nodes that have one already; leaves get none."""
    pending = list(nodes) if path else []
    while pending:
        node = pending.pop()
        if node.inputs and not node.path:
            node.path = path
            pending += node.inputs
