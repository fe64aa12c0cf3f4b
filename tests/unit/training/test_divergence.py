"""A non-finite number stops the training with an error that names its origin; the last good checkpoint stays."""

import dataclasses

import numpy as np
import pytest

from nl_layers.optimizers import SGD, Momentum
from nl_layers.schedules import Constant
from nl_models import build
from nl_nodes import UserError
from nl_training.data import Split, load
from nl_training.training.checkpoint import Checkpoints, read
from nl_training.training.divergence import first_not_finite
from nl_training.training.trainer import Trainer, TrainOptions

DATA = load("digits")
RNG = np.random.default_rng(5)
X, T = RNG.standard_normal((20, 1, 8, 8)), np.arange(20) % 10


def network(**options):
    net = build("mlp", input_shape=DATA.input_shape, hidden=[16, 12], seed=0, **options)
    net.step(X, T)
    return net


def test_non_finite_weight_is_named_with_its_layer() -> None:
    net = network(batch_norm=True, dropout=0.5)
    net.params["W2"][3, 1] = np.inf
    assert first_not_finite(net, X, T) == "Parameter('W2') of Affine 2"


def test_first_overflowing_node_is_named() -> None:
    net = network(activation="tanh")
    net.params["W1"][...] *= np.float32(1e38)
    assert first_not_finite(net, X, T) == "Dot(20, 16) of Affine 1"


def test_non_finite_images_are_reported() -> None:
    x = X.copy()
    x[3, 0, 2, 2] = np.nan
    assert first_not_finite(network(), x, T) == "the batch's images"


def test_gradient_overflow_is_reported_with_a_finite_loss() -> None:
    net = network()
    # Hidden units that are 0 remove the huge weights from the logits, but not from backward.
    net.params["W2"][...], net.params["b2"][...] = 0, -1
    net.params["W3"][...] = np.float32(3.4e38)
    net.params["W3"][:, T[3]] *= -1
    with np.errstate(all="ignore"):
        assert np.isfinite(float(net.step(X[3:4], T[3:4]).loss))
    assert first_not_finite(net, X[3:4], T[3:4]) == "the gradient of Dot(1, 10) of Affine 3"


def trainer(checkpoints=None, optimizer=None, data=DATA, **limits):
    net = build("mlp", input_shape=DATA.input_shape, hidden=[16], seed=0)
    settings = TrainOptions(epochs=2, batch_size=100, **limits)
    return Trainer(net, optimizer or SGD(0.1), Constant(), data, settings, checkpoints=checkpoints)


def spoiled(place: int):
    """Return the data with a NaN pixel in the image at this index."""
    x = DATA.train.x.copy()
    x[place] = np.nan
    return dataclasses.replace(DATA, train=Split(x, DATA.train.t))


def test_divergence_error_names_the_step_and_the_node(tmp_path) -> None:
    with Checkpoints(tmp_path, every_steps=1) as checkpoints:
        made = trainer(checkpoints, data=spoiled(7))
        with pytest.raises(UserError, match=r"nan at step \d+: .*first in the batch's images; the last") as caught:
            made.run()
        assert "\n" not in str(caught.value)
        assert f"nan at step {made.step + 1}:" in str(caught.value)
        checkpoints.collect(wait=True)
        ctx = checkpoints.newest()
    assert str(checkpoints.paths()[-1]) in str(caught.value)
    assert all(np.isfinite(a).all() for name, a in ctx.arrays.items() if name.startswith("weights/"))


def test_overflowed_weights_are_not_saved(tmp_path) -> None:
    with Checkpoints(tmp_path, every_steps=1) as checkpoints:
        made = trainer(checkpoints, Momentum(3e38, momentum=0.99))
        with np.errstate(all="ignore"), pytest.raises(UserError, match=r"step \d+: lower optimizer.lr"):
            made.run()
        checkpoints.collect(wait=True)
        found = [read(path) for path in checkpoints.paths()]
    assert all(np.isfinite(a).all() for s in found for name, a in s.arrays.items() if name.startswith("weights/"))


def test_non_finite_gradient_stops_training_or_is_skipped() -> None:
    def spoil(net):
        original = net.step

        def step(x, t):
            done = original(x, t)
            if net.passes == 3:
                done.grads["W1"][0, 0] = np.inf
            return done

        net.step = step

    for on_nan in ("stop", "skip"):
        made = trainer(on_nan=on_nan)
        spoil(made.net)
        if on_nan == "stop":
            with pytest.raises(UserError, match="a gradient became infinite or no number at step 3"):
                made.run()
        else:
            assert made.run().steps == made.total_steps
            assert made.optimizer.steps == made.total_steps - 1
            assert np.isfinite(made.net.params.flat).all()


def test_a_last_step_that_leaves_no_finite_loss_is_divergence() -> None:
    with (
        np.errstate(all="ignore"),
        pytest.raises(UserError, match=r"validation images is nan after step 1: lower optim"),
    ):
        trainer(optimizer=SGD(1e30), max_steps=1).run()
