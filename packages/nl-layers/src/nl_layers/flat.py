"""A dictionary of arrays that lie in one buffer, so that what touches all of them is one operation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import prod
from typing import Any

from nl_layers.params import Params
from nl_nodes import backend_of
from nl_nodes.typing import Array, Shape


def decays(name: str) -> bool:
    """Whether weight decay acts on a parameter of this name: on weights, not on biases, gammas and betas.

    >>> [decays(name) for name in ("W1", "b1", "gamma2", "weight", "bias")]
    [True, False, False, True, False]
    """
    return name.rstrip("0123456789") not in {"b", "bias", "gamma", "beta"}


class FlatDict(Params):
    """Zeros of given shapes by name, as views of one buffer; those that decay lie first.

    Setting an entry copies the values into the buffer; see `Params`.

    Args:
        shapes: the shape of each array; its order is the dictionary's.
        zeros: makes so many zeros in a row.
    """

    def __init__(self, shapes: Mapping[str, Shape], zeros: Callable[[int], Array]) -> None:
        super().__init__(dict.fromkeys(shapes))
        self._lay(shapes, zeros(sum(prod(shape) for shape in shapes.values())))

    @property
    def flat(self) -> Array:
        """The buffer, 1-D; setting it copies the values in."""
        return self._flat

    @flat.setter
    def flat(self, values: Any) -> None:
        Params(flat=self._flat).update(flat=values)

    @property
    def decayed(self) -> Array:
        """The part of the buffer on which weight decay acts; setting it copies the values in."""
        return self._decayed

    @decayed.setter
    def decayed(self, values: Any) -> None:
        Params(decayed=self._decayed).update(decayed=values)

    def move(self, flat: Array) -> None:
        """Let the arrays lie in another buffer, with the values that it holds."""
        self._lay(self.shapes(), flat)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _flat, (self.shapes(), self.flat)

    def shapes(self) -> dict[str, Shape]:
        """The shape of each array."""
        return {name: tuple(array.shape) for name, array in self.items()}

    def _lay(self, shapes: Mapping[str, Shape], flat: Array) -> None:
        """Make every entry a view of the buffer."""
        self._flat = flat
        start = 0
        for name in sorted(shapes, key=lambda name: not decays(name)):
            stop = start + prod(shapes[name])
            dict.__setitem__(self, name, flat[start:stop].reshape(shapes[name]))
            start = stop
        self._decayed = flat[: sum(prod(shape) for name, shape in shapes.items() if decays(name))]


def _flat(shapes: Mapping[str, Shape], flat: Array) -> FlatDict:
    """The flat dictionary of these values, in memory of its own."""
    return FlatDict(shapes, lambda size: backend_of([flat]).xp.array(flat))


def paired(params: Mapping[str, Array], grads: Mapping[str, Array]) -> dict[str, tuple[Array, Array]]:
    """Parameters beside their gradients: the two whole buffers when both are flat, else name by name."""
    if isinstance(params, FlatDict) and isinstance(grads, FlatDict):
        return {"": (params.flat, grads.flat)}
    return {name: (param, grads[name]) for name, param in params.items()}


def blocks(*arrays: Array) -> Iterator[tuple[Array, ...]]:
    """The same part of several arrays of one shape at a time, as large as their device likes best; flat ones only."""
    size = backend_of(arrays).block
    if size is None or arrays[0].ndim != 1:
        yield arrays
        return
    for start in range(0, arrays[0].size, size):
        yield tuple(array[start : start + size] for array in arrays)


def decayed(params: Mapping[str, Array]) -> list[Array]:
    """The arrays on which weight decay acts."""
    if isinstance(params, FlatDict):
        return [params.decayed]
    return [param for name, param in params.items() if decays(name)]


def add_weight_decay(params: Mapping[str, Array], grads: Mapping[str, Array], rate: float) -> None:
    """Add rate * W to the gradient of every weight W, in place: the gradient of the penalty rate / 2 * |W|^2.

    Source: Krogh and Hertz, A Simple Weight Decay Can Improve Generalization (1992); Deep Learning from Scratch, 6.4.2.
    """
    for pair in zip(decayed(params), decayed(grads), strict=True):
        for param, grad in blocks(*pair):
            grad += rate * param
