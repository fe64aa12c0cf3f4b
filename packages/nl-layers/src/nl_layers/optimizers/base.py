"""`Optimizer`, the base class: it counts steps, keeps the state and calls the formula on every array.

Formulas take the numbers that change from step to step from `now`, so that a GPU's update can be recorded once: there
they are arrays without axes.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from nl_layers.flat import blocks, decayed, paired
from nl_nodes import UserError, backend_of
from nl_nodes.arguments import POSITIVE, check_init, checked
from nl_nodes.typing import Array

Arrays = Mapping[str, Array]


class Optimizer:
    """Base of optimizers: calls `update_array` on each parameter, or on blocks of it, with its gradient and state.

    An elementwise optimizer may get a whole network's parameters as one array. Others get each parameter by itself;
    of those, arrays with one axis (biases, gammas, betas) may still come in blocks.

    Args:
        lr: the learning rate, above 0.

    Attributes:
        state: the arrays named by `slots`, by parameter.
        steps: number of updates so far.
        now: the numbers of the current step by name, see `numbers`.

    Raises:
        UserError: for an unknown argument, or a number out of its range.
    """

    slots: tuple[str, ...] = ()
    elementwise = True
    """Whether an element's step depends on that element alone."""

    def __init_subclass__(cls) -> None:
        """Refuse unknown keywords in one line."""
        check_init(cls)

    @checked
    def __init__(self, lr: float = 0.01) -> None:
        POSITIVE.check(type(self).__name__, lr=lr)
        self.lr = lr
        self.state: dict[str, dict[str, Array]] = {}
        self.steps = 0
        self.now: Mapping[str, Any] = {}

    def numbers(self) -> dict[str, float]:
        """Return the numbers that change from step to step, by name."""
        return {"lr": self.lr}

    def shrink(self, weights: Array) -> None:
        """Change the weights in place before the step, without biases, gammas and betas; here they stay as they are."""

    def update(self, params: Arrays, grads: Arrays) -> None:
        """Update every array of `params` in place from its gradient in `grads`."""
        self.begin(params, grads)
        for weights in decayed(params):
            self.shrink(weights)
        for name, (param, grad) in paired(params, grads, self.elementwise).items():
            slots = self.state[name]
            for block, block_grad, *state in blocks(param, grad, *slots.values()):
                self.update_array(block, block_grad, **dict(zip(slots, state, strict=True)))

    def step(self, params: Arrays, grads: Arrays) -> None:
        """Call `update`, by PyTorch's name."""
        self.update(params, grads)

    def begin(self, params: Arrays, grads: Arrays) -> None:
        """Begin a step: count it, set `now`, and create the state of parameters that have none yet.

        Raises:
            UserError: where the state is of other parameters; nothing is changed then.
        """
        arrays = {name: param for name, (param, _) in paired(params, grads, self.elementwise).items()}
        all_slots = self.slots_of(arrays)
        if self.state and ("" in self.state) != ("" in arrays):
            raise UserError(
                f"{type(self).__name__} had parameters and gradients of a network as they are, and now has a plain "
                "dictionary, or the other way round: keep to one, as each has its own state"
            )
        for name, slots in all_slots.items():
            self._check_state(name, arrays[name], slots)
        self.steps += 1
        self.now = self.numbers()
        for name, slots in all_slots.items():
            if name not in self.state:
                zeros = backend_of([arrays[name]]).xp.zeros_like
                self.state[name] = {slot: zeros(arrays[name]) for slot in slots}

    def _check_state(self, name: str, param: Array, slots: tuple[str, ...]) -> None:
        """Refuse a parameter's state that has other arrays, or arrays of another shape."""
        state = self.state.get(name)
        if state is None:
            return
        owner, of = type(self).__name__, f" of {name!r}" if name else ""
        if set(state) != set(slots):
            raise UserError(
                f"{owner} keeps {', '.join(slots)}{of}; its state has {', '.join(state)}: "
                "it is of another optimizer or network"
            )
        for slot, array in state.items():
            if array.shape != param.shape:
                raise UserError(
                    f"{owner} has a {slot}{of} of shape {array.shape}, the parameters have {param.shape}: "
                    "it trained another network; make a new optimizer"
                )

    def slots_of(self, params: Arrays) -> dict[str, tuple[str, ...]]:
        """Return the names of the state arrays of each parameter."""
        return dict.fromkeys(params, self.slots)

    @property
    def layouts(self) -> tuple[tuple[str, ...], ...]:
        """The names of the state arrays that a parameter may have."""
        return (self.slots,)

    @property
    def settings(self) -> dict[str, Any]:
        """Class and settings, without what changes from step to step."""
        changing = ("lr", "state", "steps", "now")
        return {"class": type(self), **{name: value for name, value in vars(self).items() if name not in changing}}

    def update_array(self, param: Array, grad: Array, **state: Array) -> None:
        """Update a parameter and its state in place."""
        raise NotImplementedError

    def __repr__(self) -> str:
        numbers = {name: value for name, value in self.settings.items() if name != "class"}
        listed = ", ".join(f"{name}={value!r}" for name, value in {"lr": self.lr, **numbers}.items())
        return f"{type(self).__name__}({listed})"

    def __copy__(self) -> Optimizer:
        return deepcopy(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        # Unpickled arrays may be read-only, or views of borrowed memory.
        self.state = {name: {slot: array.copy() for slot, array in slots.items()} for name, slots in self.state.items()}

    def state_dict(self) -> dict[str, Array]:
        """Return copies of the arrays of `state`, keyed `parameter/slot`; `steps` is saved separately."""
        arrays = ((f"{name}/{slot}", array) for name, slots in self.state.items() for slot, array in slots.items())
        return {key: array.copy() for key, array in arrays}

    def load_state_dict(self, state: Arrays, steps: int) -> None:
        """Restore the result of `state_dict`, as arrays on the parameters' device, and the number of steps.

        Raises:
            UserError: for the state of another optimizer; nothing is changed then.
        """
        loaded: dict[str, dict[str, Array]] = {}
        for key, array in state.items():
            name, _, slot = key.rpartition("/")
            loaded.setdefault(name, {})[slot] = array.copy()
        for name, slots in loaded.items():
            if set(slots) not in [set(layout) for layout in self.layouts]:
                kept = " or ".join(", ".join(layout) or "nothing" for layout in self.layouts)
                raise UserError(
                    f"{type(self).__name__} keeps {kept} of each parameter; "
                    f"this state has {', '.join(sorted(slots))} of {name!r}"
                )
        self.state, self.steps = loaded, steps
