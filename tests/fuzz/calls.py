"""The calls that random programs consist of: each acts on a network and returns its results."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nl_layers.optimizers import LAMB, SGD, AdaGrad, Adam, AdamW, Momentum, Nesterov, Optimizer, RMSprop
from nl_models import Network
from nl_nodes import UserError

Results = dict[str, np.ndarray]
Draw = np.random.Generator
Call = Callable[["Model", Draw], Results]

# A large eps, without which Adam makes full steps from gradients that are only rounding errors, as Lion and Muon do.
OPTIMIZERS: list[Callable[[], Optimizer]] = [
    SGD, Momentum, Nesterov, lambda: AdaGrad(eps=1e-3), lambda: RMSprop(eps=1e-3), lambda: Adam(eps=1e-3),
    lambda: AdamW(eps=1e-3), lambda: LAMB(eps=1e-3),
]  # fmt: skip


@dataclass
class Model:
    """A network, with its optimizer and files.

    Attributes:
        net: the network.
        optimizer: the optimizer of its parameters.
        batches: the sizes of training batches.
        folder: the folder of its files.
        kept: a state of it from before.
    """

    net: Network
    optimizer: Optimizer
    batches: tuple[int, ...]
    folder: Path
    ctx: dict[str, np.ndarray] = field(default_factory=dict)

    def state(self) -> Results:
        """Return all readable state on which later calls depend."""
        net = self.net
        shown = {f"params[{name}]": value.copy() for name, value in net.params.items()}
        layers = {
            f"layers[{i}].params[{name}]": value.copy()
            for i, layer in enumerate(net.layers)
            for name, value in layer.params.items()
        }
        return {**net.state_dict(), **shown, **layers, "flat": net.params.flat.copy(), "passes": np.array(net.passes)}

    def copied(self, way: str) -> Model:
        """Return an independent copy, made by `copy.deepcopy` or pickle."""
        both = (self.net, self.optimizer)
        net, optimizer = copy.deepcopy(both) if way == "deepcopy" else pickle.loads(pickle.dumps(both))  # noqa: S301 - bytes of this process, made a moment before
        return Model(net, optimizer, self.batches, self.folder, dict(self.ctx))


CALLS: dict[str, Call] = {}
WHOLE: list[str] = []
"""The calls that happen wholly or not at all, whatever interrupts them."""
SIDE_BY_SIDE: list[str] = []
"""The calls that several threads may make at the same time, on one network too."""


def call(whole: bool = False, side_by_side: bool = False) -> Callable[[Call], Call]:
    """Register a function by its name."""

    def enter(function: Call) -> Call:
        name = function.__name__
        CALLS[name] = function
        WHOLE.extend([name] * whole)
        SIDE_BY_SIDE.extend([name] * side_by_side)
        return function

    return enter


def images(model: Model, draw: Draw, count: int) -> Any:
    """Return `count` images as an array of random dtype and memory layout."""
    x = draw.standard_normal((count, *model.net.input_shape))
    forms: list[Callable[[], Any]] = [
        lambda: x, lambda: x, lambda: x.astype(np.float32), lambda: np.asfortranarray(x), lambda: x[::-1],
        lambda: x.tolist() if count else x, lambda: np.abs(np.round(x * 3)).astype(np.int8),
    ]  # fmt: skip
    return forms[draw.integers(len(forms))]()


def labels(model: Model, draw: Draw, count: int) -> Any:
    """Return `count` labels: integers of a random type, one-hot rows or soft labels."""
    k = model.net.classes
    t = draw.integers(0, k, count)
    soft = draw.dirichlet(np.ones(k), count)
    forms: list[Callable[[], Any]] = [
        lambda: t, lambda: t.astype(np.uint8), lambda: t.astype(np.int32), lambda: t.astype(np.float64), t.tolist,
        lambda: np.eye(k)[t], lambda: np.eye(k, dtype=np.int64)[t], lambda: soft, lambda: soft.astype(np.float32),
    ]  # fmt: skip
    return forms[draw.integers(len(forms))]()


def batch(model: Model, draw: Draw) -> tuple[Any, Any]:
    """Return images and labels of a random batch size of the program."""
    count = int(draw.choice(model.batches))
    return images(model, draw, count), labels(model, draw, count)


def copies(grads: Mapping[str, np.ndarray]) -> Results:
    return {f"gradient of {name}": grad.copy() for name, grad in grads.items()}


@call(whole=True, side_by_side=True)
def step(model: Model, draw: Draw) -> Results:
    done = model.net.step(*batch(model, draw))
    return {"loss": np.asarray(done.loss), "logits": done.logits.copy(), **copies(done.grads)}


@call(whole=True, side_by_side=True)
def gradient(model: Model, draw: Draw) -> Results:
    return copies(model.net.gradient(*batch(model, draw)))


@call(whole=True, side_by_side=True)
def predict(model: Model, draw: Draw) -> Results:
    """Predict for a training batch's size or another: zero, one, or more images than one inference batch has."""
    count = int(draw.choice([*model.batches * 4, 0, 1, 300]))
    return {"logits": model.net.predict(images(model, draw, count))}


@call(whole=True, side_by_side=True)
def evaluate(model: Model, draw: Draw) -> Results:
    loss, accuracy = model.net.evaluate(*batch(model, draw))
    return {"loss": np.asarray(loss), "accuracy": np.asarray(accuracy)}


@call(whole=True)
def loss_and_accuracy(model: Model, draw: Draw) -> Results:
    x, t = batch(model, draw)
    return {"loss": np.asarray(model.net.loss(x, t)), "accuracy": np.asarray(model.net.accuracy(x, t))}


@call()
def update(model: Model, draw: Draw) -> Results:
    """Make a training step, by the optimizer or by the textbook's update loop."""
    net = model.net
    grads = net.gradient(*batch(model, draw))
    found = copies(grads)
    way = draw.integers(4)
    if way == 0:
        for name in net.params:
            net.params[name] -= 0.05 * grads[name]
    elif way == 1:
        for name in net.params:
            net.params[name] = net.params[name] - 0.05 * grads[name]
    else:
        model.optimizer.update(net.params, grads)
    return found


@call()
def layer_by_layer(model: Model, draw: Draw) -> Results:
    """Call forward and backward of each layer in turn, like the textbook's networks."""
    net, (x, t) = model.net, batch(model, draw)
    x = np.asarray(x, np.float64)
    for layer in net.layers:
        x = layer.forward(x, train=True)
    loss = net.loss_layer.forward(x, t)
    dy = net.loss_layer.backward()
    for layer in reversed(net.layers):
        dy = layer.backward(dy)
    grads = {f"{i} {name}": grad for i, layer in enumerate(net.layers) for name, grad in layer.grads.items()}
    return {"loss": np.asarray(loss), "gradient of x": dy, **copies(grads)}


def weights(shape: tuple[int, ...], draw: Draw) -> Any:
    """Return values for a parameter, of a random real dtype.

    Integers all have one sign, like pixels: otherwise sums cancel to 0, and rounding decides the sign at a ReLU
    (docs/decisions/0015).
    """
    value = draw.normal(0, 0.3, shape)
    whole = 1 + np.abs(np.round(value * 3)).astype(np.int64)
    forms: list[Callable[[], Any]] = [
        lambda: value, lambda: value.astype(np.float32), lambda: whole, value.tolist,
        lambda: np.asfortranarray(value),
    ]  # fmt: skip
    return forms[draw.integers(len(forms))]()


@call()
def set_in_place(model: Model, draw: Draw) -> Results:
    name = draw.choice(list(model.net.params))
    model.net.params[name][...] = weights(model.net.params[name].shape, draw)
    return {}


@call(whole=True)
def set_one(model: Model, draw: Draw) -> Results:
    name = draw.choice(list(model.net.params))
    model.net.params[name] = weights(model.net.params[name].shape, draw)
    return {}


@call()
def set_several(model: Model, draw: Draw) -> Results:
    """Set several parameters by `update`, by `|=`, or by one assignment."""
    net = model.net
    new = {name: weights(value.shape, draw) for name, value in net.params.items()}
    some = {name: new[name] for name in list(new)[:2]}
    way = draw.integers(4)
    if way == 0:
        net.params.update(some)
    elif way == 1:
        net.params.update(**some)
    elif way == 2:
        net.params |= some
    else:
        net.params = new
    return {}


@call()
def set_layer(model: Model, draw: Draw) -> Results:
    """Set a parameter of a layer, by its name in `params` or as an attribute."""
    layers = [layer for layer in model.net.layers if layer.params]
    layer = layers[draw.integers(len(layers))]
    name = draw.choice(list(layer.params))
    value = weights(layer.params[name].shape, draw)
    if draw.integers(2) or not name.isalpha():  # the parameters of a fork are not attributes
        layer.params[name] = value
    else:
        setattr(layer, name, value)
    return {}


@call()
def set_wrong(model: Model, draw: Draw) -> Results:
    """Set an invalid value, or a parameter that does not exist."""
    params = model.net.params
    name = draw.choice(list(params))
    shape = params[name].shape
    wrong: list[Callable[[], Any]] = [
        lambda: params.__setitem__(name, np.zeros(shape) + 1j), lambda: params.__setitem__(name, np.zeros((*shape, 2))),
        lambda: params.__setitem__("W99", np.zeros(shape)), lambda: params.__delitem__(name),
        lambda: params.update({name: np.zeros((2, *shape))}), lambda: params.pop(name), params.clear,
        lambda: params.setdefault("W99", np.zeros(2)),
    ]  # fmt: skip
    return refused(wrong[draw.integers(len(wrong))])


@call()
def wrong_labels(model: Model, draw: Draw) -> Results:
    """Use labels out of range, fractional, or of another count, in the network or its loss."""
    net, k = model.net, model.net.classes
    count = int(draw.choice(model.batches))
    t = draw.integers(0, k, count)
    forms = [
        np.where(np.arange(count) == 1, k, t), np.where(np.arange(count) == 0, -1, t), t + 0.5, np.append(t, 0),
        np.where(np.arange(count) == 0, np.nan, t), np.zeros((count, k + 1)), t.astype(str), t == 1,
    ]  # fmt: skip
    wrong = forms[draw.integers(len(forms))]
    x = draw.standard_normal((count, *net.input_shape))
    calls: list[Callable[[], Any]] = [lambda: net.step(x, wrong), lambda: net.evaluate(x, wrong)]
    return refused(calls[draw.integers(len(calls))])


@call()
def wrong_images(model: Model, draw: Draw) -> Results:
    net = model.net
    shape = [int(n) for n in net.input_shape]
    shape[draw.integers(len(shape))] += 1
    return refused(lambda: net.predict(np.zeros((2, *shape))))


@call()
def keep_state(model: Model, draw: Draw) -> Results:
    model.ctx = model.net.state_dict()
    return {f"kept {name}": value.copy() for name, value in model.ctx.items()}


@call(whole=True)
def restore_state(model: Model, draw: Draw) -> Results:
    if model.ctx:
        model.net.load_state_dict(model.ctx)
    return {}


@call()
def restore_wrong(model: Model, draw: Draw) -> Results:
    """Load a state that lacks an array, or whose last array has another shape; nothing may change."""
    state = {name: value + 1 for name, value in model.net.state_dict().items()}
    last = list(state)[-1]
    state[last] = np.zeros((*state[last].shape, 2))
    if draw.integers(2):
        del state[last]
    return refused(lambda: model.net.load_state_dict(state))


@call()
def save(model: Model, draw: Draw) -> Results:
    model.net.save(model.folder / "weights.safetensors")
    return {}


@call(whole=True)
def load(model: Model, draw: Draw) -> Results:
    path = model.folder / "weights.safetensors"
    return refused(lambda: model.net.load(path)) if not path.exists() else (model.net.load(path) or {})


@call()
def set_passes(model: Model, draw: Draw) -> Results:
    model.net.passes = int(draw.integers(0, 5))
    return {}


def refused(function: Callable[[], Any]) -> Results:
    """Require that the call is refused; other exceptions propagate."""
    try:
        function()
    except UserError:
        return {}
    raise AssertionError("taken, and not refused")
