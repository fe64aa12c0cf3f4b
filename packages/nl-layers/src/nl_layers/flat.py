"""Parameters as views of one flat buffer, so that one operation updates all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import prod, sqrt
from typing import Any

from nl_layers.params import Params
from nl_nodes import ShapeError, UserError, backend_of
from nl_nodes.arguments import POSITIVE
from nl_nodes.typing import Array, Shape


def decays(name: str) -> bool:
    """Return whether weight decay applies to a parameter of this name: to weights, not to biases, gammas and betas.

    >>> [decays(name) for name in ("W1", "b1", "gamma2", "weight", "branch.0.bias")]
    [True, False, False, True, False]
    """
    return name.rpartition(".")[2].rstrip("0123456789") not in {"b", "bias", "gamma", "beta"}


class FlatDict(Params):
    """A dictionary of arrays that are views of one buffer, decayed parameters first.

    Entries start as zeros; setting one copies the values into the buffer, see `Params`.

    Args:
        shapes: shape by name; the dictionary has the same order.
        zeros: allocates a 1-D array of `size` zeros.
    """

    def __init__(self, shapes: Mapping[str, Shape], zeros: Callable[[int], Array]) -> None:
        super().__init__(dict.fromkeys(shapes))
        self._set_views(shapes, zeros(sum(prod(shape) for shape in shapes.values())))

    @property
    def flat(self) -> Array:
        """The buffer, 1-D; setting it copies the values in."""
        return self._flat

    @flat.setter
    def flat(self, values: Any) -> None:
        Params(flat=self._flat).update(flat=values)

    @property
    def decayed(self) -> Array:
        """The part of the buffer that weight decay applies to; setting it copies the values in."""
        return self._decayed

    @decayed.setter
    def decayed(self, values: Any) -> None:
        Params(decayed=self._decayed).update(decayed=values)

    def move(self, flat: Array) -> None:
        """Make the arrays views of another buffer, with the values of that buffer."""
        self._set_views(self.shapes(), flat)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _restore, (self.shapes(), self.flat)

    def shapes(self) -> dict[str, Shape]:
        """Return the shape of each array."""
        return {name: tuple(array.shape) for name, array in self.items()}

    def _set_views(self, shapes: Mapping[str, Shape], flat: Array) -> None:
        self._flat = flat
        start = 0
        for name in sorted(shapes, key=lambda name: not decays(name)):
            stop = start + prod(shapes[name])
            dict.__setitem__(self, name, flat[start:stop].reshape(shapes[name]))
            start = stop
        self._decayed = flat[: sum(prod(shape) for name, shape in shapes.items() if decays(name))]


def _restore(shapes: Mapping[str, Shape], flat: Array) -> FlatDict:
    """Return an unpickled dictionary with its own copy of the buffer."""
    return FlatDict(shapes, lambda size: backend_of([flat]).xp.array(flat))


def paired(
    params: Mapping[str, Array], grads: Mapping[str, Array], whole: bool = True
) -> dict[str, tuple[Array, Array]]:
    """Return pairs of parameter and gradient: the two whole buffers if `whole` and both are flat, else by name.

    Raises:
        UserError: where a gradient is missing.
        ShapeError: where one has another shape.
    """
    if whole and isinstance(params, FlatDict) and isinstance(grads, FlatDict):
        return {"": (params.flat, grads.flat)}
    for name, param in params.items():
        if name not in grads:
            raise UserError(f"there is no gradient of {name!r}: give one for each parameter")
        if grads[name].shape != param.shape:
            raise ShapeError(f"the gradient of {name!r} has shape {grads[name].shape}, the parameter {param.shape}")
    return {name: (param, grads[name]) for name, param in params.items()}


def blocks(*arrays: Array) -> Iterator[tuple[Array, ...]]:
    """Yield corresponding slices of arrays of one shape, of the device's block size; only 1-D arrays are sliced."""
    size = backend_of(arrays).block
    if size is None or arrays[0].ndim != 1:
        yield arrays
        return
    for start in range(0, arrays[0].size, size):
        yield tuple(array[start : start + size] for array in arrays)


def decayed(params: Mapping[str, Array]) -> list[Array]:
    """Return the arrays that weight decay applies to."""
    if isinstance(params, FlatDict):
        return [params.decayed]
    return [param for name, param in params.items() if decays(name)]


def add_weight_decay(params: Mapping[str, Array], grads: Mapping[str, Array], rate: float) -> None:
    """Add rate * W to the gradient of every weight W, in place: the gradient of the penalty rate / 2 * |W|^2.

    Source: Krogh and Hertz, A Simple Weight Decay Can Improve Generalization (1992); Deep Learning from Scratch, 6.4.2.
    """
    if isinstance(params, FlatDict) and isinstance(grads, FlatDict):
        pairs = [(params.decayed, grads.decayed)]
    else:
        pairs = [pair for name, pair in paired(params, grads).items() if decays(name)]
    for pair in pairs:
        for param, grad in blocks(*pair):
            grad += rate * param


def clip_norm(grads: FlatDict, most: float) -> float:
    """Scale a gradient in place to an L2 norm of at most `most`, over all parameters; return its norm before.

    The factor is min(1, most / (norm + 1e-6)), as in PyTorch's `clip_grad_norm_`; the norm is summed in float64.

    Source: Pascanu, Mikolov and Bengio, On the Difficulty of Training Recurrent Neural Networks (2013), algorithm 1.
    """
    POSITIVE.check("clip_norm", most=most)
    xp, parts = backend_of([grads.flat]).xp, [part for (part,) in blocks(grads.flat)]
    norm = sqrt(sum(float(xp.multiply(part, part, dtype="float64").sum()) for part in parts))
    factor = most / (norm + 1e-6)
    if factor < 1:
        for part in parts:
            part *= factor
    return norm
