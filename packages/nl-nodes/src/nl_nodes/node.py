"""The base of every node: one operation, its gradient, its shape and what it keeps between the two."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any, ClassVar, Self

from nl_nodes.errors import ShapeError
from nl_nodes.typing import Array, Namespace, Shape

if TYPE_CHECKING:
    from nl_nodes.cases import Case


class NotShardable(Exception):
    """A node's outputs for some samples depend on others, in a way that cannot be shared among workers."""


WIRING = ("inputs", "shape", "path", "value")
"""What a node holds that is no setting of its operation: where it stands, and a leaf's array."""

PARTIAL_SUM = -1
"""In place of an axis: the output is the sum of what each part of the samples gives."""


class WorkerGroup:
    """Who works on one pass: each worker has its share of the samples. This one works alone."""

    def __init__(self, xp: Namespace) -> None:
        self.xp = xp

    def shard(self, count: int) -> slice:
        """Which of so many equal pieces of work are this worker's."""
        return slice(0, count)

    def global_batch(self, samples: int) -> int:
        """How many samples all workers have together, where this one has so many."""
        return samples

    def shared_empty(self, shape: Shape, dtype: Any) -> Array:
        """An array that all workers see."""
        return self.xp.empty(shape, dtype=dtype)

    def persistent_zeros(self, shape: Shape, dtype: Any) -> Array:
        """Zeros, for this node alone: what it never writes stays zero from pass to pass."""
        return self.xp.zeros(shape, dtype=dtype)

    def all_reduce_sum(self, x: Array) -> Array:
        """The sum of every worker's x."""
        return x

    def barrier(self) -> None:
        """Wait until every worker has come here."""


class Context:
    """What one node keeps from forward to backward in one pass.

    The graph fills `xp` (the device's array functions), `shapes` (of the inputs), `needs` (which inputs want a
    gradient), and of `inputs` and `output` those that the node declares in `saves`. A node may set `saved`, and
    nothing else, in its forward. `pass_index` and `random_bits` serve randomness (see `IndexMask`), `group` the nodes that
    several workers share (see `WorkerGroup`).
    """

    __slots__ = ("group", "inputs", "needs", "output", "pass_index", "random_bits", "saved", "shapes", "xp")

    xp: Namespace
    group: WorkerGroup
    shapes: tuple[Shape, ...]
    needs: tuple[bool, ...]
    inputs: tuple[Array, ...]
    output: Array
    saved: Array
    pass_index: int
    random_bits: Callable[[int, int, int, int], Array]


class Node:
    """One operation of a graph.

    A subclass gives `infer` (the output's shape), `forward` and `backward`, in array maths alone, and `cases`, the
    inputs on which its gradient is verified. It knows nothing of its neighbours: the graph hands it arrays and
    accumulates what it returns.

    Attributes:
        inputs: the nodes whose outputs this one takes.
        shape: the output's shape, when the inputs' shapes are known before running; else None.
        keeps: what backward needs, of "inputs", "output" and "saved"; the graph drops all else after forward.
        carries: numbers of inputs that are made of the first one, and whose gradient is already in that one's.
        constant: whether no gradient goes through it to its inputs.
        broadcasts: whether backward may return gradients of the broadcast shape, for the graph to reduce.
        path: the layer that the node belongs to, where one has claimed it (see `assign_scope`); it changes nothing.
    """

    registry: ClassVar[dict[str, type[Node]]] = {}
    saves: ClassVar[tuple[str, ...]] = ()
    grad_included_in_first: ClassVar[tuple[int, ...]] = ()
    constant: ClassVar[bool] = False
    broadcasts: ClassVar[bool] = False
    path: str = ""

    inputs: tuple[Node, ...]
    shape: Shape | None

    def __init_subclass__(cls, *, abstract: bool = False) -> None:
        """Enrol the subclass, so that verification finds it."""
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
        """The settings of the operation by name: with its class, they say what it computes from its inputs."""
        return {name: value for name, value in vars(self).items() if name not in WIRING}

    def replace(self, inputs: Sequence[Node] | None = None, **attributes: Any) -> Self:
        """Return the same operation on other inputs, or with other settings, its shape inferred anew.

        Args:
            inputs: what it takes; by default the same.
            attributes: the settings that change.
        """
        twin = copy(self)
        vars(twin).update(attributes)
        twin._connect(self.inputs if inputs is None else tuple(inputs))
        return twin

    def infer(self, *shapes: Shape) -> Shape:
        """The output's shape for inputs of these shapes; raises `ShapeError` where they don't fit."""
        raise NotImplementedError

    def forward(self, ctx: Context, *inputs: Array) -> Array:
        """The output for these inputs, which must not be changed."""
        raise NotImplementedError

    def backward(self, ctx: Context, dy: Array) -> Array | tuple[Array | None, ...]:
        """The gradient for each input from the gradient of the output, which must not be changed."""
        raise NotImplementedError

    def batch_axis(self, shapes: tuple[Shape, ...], axes: tuple[int | None, ...]) -> int | None:
        """Along which axis of the output the samples lie, from where they lie in each input (None: nowhere).

        Sample i of the output may depend only on sample i of the inputs. `PARTIAL_SUM`: the output is the sum of what each
        part of the batch gives.

        Raises:
            SamplesMix: where neither holds; a graph with such a node has one worker.
        """
        raise NotShardable(type(self).__name__)

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """The inputs on which this node's gradient is verified; a node without any fails the tests."""
        return iter(())

    def misfit(self, why: str, *shapes: Shape) -> ShapeError:
        """The error that tells why these input shapes don't fit this node."""
        return ShapeError(f"{type(self).__name__}: {why}, got {' and '.join(map(str, shapes))}")

    def __repr__(self) -> str:
        return type(self).__name__ + ("" if self.shape is None else str(self.shape))


def assign_scope(nodes: Iterable[Node], path: str) -> None:
    """Give a path to these nodes and to what they are made of, as far as no other has claimed it; leaves have none."""
    waiting = list(nodes) if path else []
    while waiting:
        node = waiting.pop()
        if node.inputs and not node.path:
            node.path = path
            waiting += node.inputs
