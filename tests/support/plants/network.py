"""Errors in the network: around a pass, in its inputs and its weights."""

from __future__ import annotations

import numpy as np

from nl_models import Network
from nl_nodes import Device, Graph
from support.plants.registry import NORMALISED, ROWS, plant, wrap


@plant("reference", ROWS)
def gradients_of_one_shape_exchanged() -> None:
    """The gradients of two weights of one shape are exchanged."""

    def change(right, self, x, t):
        done = right(self, x, t)
        w2, w3 = done.grads["W2"].copy(), done.grads["W3"].copy()
        done.grads["W2"][...], done.grads["W3"][...] = w3, w2
        return done

    wrap(Network, "step", change)


@plant("reference", ROWS)
def gradient_scaled_in_the_network() -> None:
    """`Network.step` returns a gradient that is 1 % too large."""

    def change(right, self, x, t):
        done = right(self, x, t)
        done.grads.flat *= 1.01
        return done

    wrap(Network, "step", change)


@plant("executor", ROWS)
def loss_scaled() -> None:
    """`Network.step` returns a loss that is 0.1 % too large."""

    def change(right, self, x, t):
        loss, logits = right(self, x, t)
        return loss * 1.001, logits

    wrap(Network, "_train", change)


@plant("reference", ROWS)
def labels_of_another_integer_dtype() -> None:
    """Labels of dtype uint8 are read as the next class."""

    def change(right, self, t, count):
        found = right(self, t, count)
        return (found + 1) % self.classes if np.asarray(t).dtype == np.uint8 else found

    wrap(Network, "_checked", change)


@plant("reference", ROWS)
def negative_strides() -> None:
    """Images with negative strides are read in the order of memory."""

    def change(right, self, x, dtype=None):
        return right(self, x[::-1] if getattr(x, "strides", (0,))[:1] < (0,) else x, dtype)

    wrap(Device, "feed", change)


@plant("reference", ROWS, images=np.asfortranarray)
def images_in_fortran_order() -> None:
    """Images in Fortran order are read in C order."""

    def change(right, self, x, dtype=None):
        if getattr(x, "ndim", 0) == 4 and min(x.strides) > 0 and not x.flags.c_contiguous:
            x = x.ravel("K").reshape(x.shape)
        return right(self, x, dtype)

    wrap(Device, "feed", change)


@plant("reference", ROWS, images=lambda x: (50 * abs(x)).astype(np.uint8))
def images_of_integers() -> None:
    """Images of dtype uint8 are doubled."""

    def change(right, self, x, dtype=None):
        return right(self, x, dtype) * (2 if getattr(x, "ndim", 0) == 4 and x.dtype == np.uint8 else 1)

    wrap(Device, "feed", change)


@plant("executor", ROWS)
def images_scaled_in_float32() -> None:
    """A network in float32 sees images 0.1 % too bright."""

    def change(right, self, x, dtype=None):
        found = right(self, x, dtype)
        return found * np.float32(1.001) if found.dtype == np.float32 else found

    wrap(Device, "feed", change)


@plant("executor", ROWS)
def images_given_in_float32() -> None:
    """A network in float32 sees float32 images 0.1 % too bright."""

    def change(right, self, x, dtype=None):
        both = self.dtype == "float32" == getattr(x, "dtype", None)
        return right(self, x, dtype) * np.float32(1.001) if both else right(self, x, dtype)

    wrap(Device, "feed", change)


@plant("executor", ROWS, images=np.round)
def pixel_exactly_one() -> None:
    """A network in float32 sees a batch 0.1 % too bright if a pixel is exactly 1."""

    def change(right, self, x, dtype=None):
        found = right(self, x, dtype)
        wrong = self.dtype == "float32" and found.ndim == 4 and (found == 1).any()
        return found * np.float32(1.001) if wrong else found

    wrap(Device, "feed", change)


@plant("executor", ROWS)
def finite_taken_for_infinite() -> None:
    """Finite results are taken for infinite, and each pass is repeated node by node."""
    Device.finite = lambda self, *arrays: self.dtype != "float32"


@plant("executor", NORMALISED)
def statistics_not_loaded() -> None:
    """`load_state_dict` does not load running statistics."""

    def change(right, self, state):
        statistics = {name: leaf.value.copy() for name, leaf in self._buffers.items()}
        right(self, {**state, **statistics})

    wrap(Network, "load_state_dict", change)


@plant("inference", ROWS)
def predictions_scaled() -> None:
    """Logits in inference are 1 % too large."""
    wrap(Network, "_infer", lambda right, self, x: right(self, x) * 1.01)


@plant("inference", ROWS)
def predictions_of_many_images() -> None:
    """Logits in inference are 1 % too large above 200 images at once."""
    wrap(Network, "_infer", lambda right, self, x: right(self, x) * (1.01 if len(x) > 200 else 1))


@plant("inference", NORMALISED)
def predictions_in_training_mode() -> None:
    """Inference on several images uses batch statistics and dropout."""

    def change(right, self, batch, train, *, rows=False):
        graph = right(self, batch, train or batch > 1, rows=rows)
        return graph if train or batch == 1 else Graph(graph.outputs[1])

    wrap(Network, "wire", change)


@plant("step", ROWS)
def predictions_by_old_weights() -> None:
    """Inference uses the weights of its first call."""
    first = {}

    def change(right, self, x):
        weights = self.params.flat.copy()
        self.params.flat = first.setdefault(id(self), weights)
        found = right(self, x)
        self.params.flat = weights
        return found

    wrap(Network, "_infer", change)


@plant("step", ROWS)
def evaluation_off() -> None:
    """The loss of an evaluation is 1 % too large."""

    def change(right, self, x, t):
        loss, accuracy = right(self, x, t)
        return loss * 1.01, accuracy

    wrap(Network, "evaluate", change)
