"""Dictionaries of parameters or gradients; setting an entry copies the values into its array."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nl_nodes import ShapeError, UserError, backend_of
from nl_nodes.signals import DeferSignals
from nl_nodes.typing import Array


class Params(dict[str, Array]):
    """A dictionary of live arrays with a fixed set of names; setting an entry copies the values into its array.

    Names, shapes and dtypes never change. Real numbers are converted to the array's dtype. An update of several entries
    is atomic. `copy` returns independent arrays in a plain dictionary.

    Raises:
        ShapeError: when values of another shape are set.
        UserError: for values that the dtype cannot represent (complex as real, fractions as integers) or that are not
            numbers, for an unknown name, and for every removal.

    >>> import numpy as np
    >>> weight = np.zeros(2)
    >>> params = Params({"weight": weight})
    >>> params["weight"] = [1, 2]
    >>> weight.tolist()
    [1.0, 2.0]
    """

    def __setitem__(self, name: str, values: Any) -> None:
        self.update({name: values})

    def __ior__(self, other: Any) -> Params:  # type: ignore[override, misc]
        self.update(other)
        return self

    def update(self, *others: Any, **named: Any) -> None:
        """Set the named entries; the arguments are those of `dict.update`."""
        converted = {
            name: self._convert(name, values)
            for name, values in _mapping(*others, **named).items()
            if values is not self.get(name)  # `params[name] -= step` sets the same array
        }
        with DeferSignals():
            for name, values in converted.items():
                self[name][...] = values

    def assign(self, others: Any) -> None:
        """Set every entry; raise `UserError` where one is missing."""
        others = _mapping(others)
        missing = [name for name in self if name not in others]
        if missing:
            raise UserError(f"the new params lack {missing[0]}: give every array, or set some by params.update")
        self.update(others)

    def setdefault(self, name: str, default: Any = None) -> Array:
        """Return the entry's array; a new name raises `UserError`."""
        if name not in self:
            raise self._unknown(name)
        return self[name]

    def copy(self) -> dict[str, Array]:
        """Return independent copies of the arrays by name."""
        return {name: array.copy() for name, array in self.items()}

    __copy__ = copy

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Params, (self.copy(),)

    def __delitem__(self, name: str) -> None:
        self._refuse_removal()

    def _refuse_removal(self, *args: Any) -> Any:
        raise UserError("arrays of a network or layer cannot be removed: set them to zeros instead")

    pop = popitem = clear = _refuse_removal

    def _convert(self, name: str, values: Any) -> Array:
        """Return a copy of the values with the shape and dtype of the entry, on its device."""
        if name not in self:
            raise self._unknown(name)
        target, backend = self[name], backend_of([self[name]])
        try:
            array = values if backend.owns(values) else backend.array(backend_of([values]).host(values))
        except (TypeError, ValueError):
            raise UserError(f"{name}: needs an array of shape {target.shape}, got {_type_names(values)}") from None
        if not backend.xp.can_cast(array.dtype, target.dtype, "same_kind"):
            raise UserError(f"{name}: values of {array.dtype} cannot become {target.dtype}: convert them first")
        if array.shape != target.shape:
            raise ShapeError(f"{name}: needs shape {tuple(target.shape)}, got {tuple(array.shape)}")
        return array.astype(target.dtype)

    def _unknown(self, name: str) -> UserError:
        return UserError(f"there is no {name!r} to set: use one of {', '.join(self) or 'no names'}")


def _mapping(*others: Any, **named: Any) -> Mapping[str, Any]:
    try:
        return dict(*others, **named)
    except (TypeError, ValueError):
        raise UserError(f"params are set from a dictionary of arrays by name, got {_type_names(*others)}") from None


def _type_names(*values: Any) -> str:
    return " and ".join(type(value).__name__ for value in values)
