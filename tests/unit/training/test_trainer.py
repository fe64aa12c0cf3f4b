"""The trainer: every image once per epoch, best weights by validation, target accuracy, bit-exact results."""

import dataclasses
from contextlib import nullcontext

import numpy as np
import pytest
from support.assertions import refused

from nl_layers.optimizers import SGD, Adam
from nl_layers.schedules import Constant, Cosine, ReduceOnPlateau
from nl_models import build
from nl_nodes import Device, UserError
from nl_training.commands import train
from nl_training.config.cli import composed
from nl_training.data import Split, load
from nl_training.training.callbacks import Callback
from nl_training.training.trainer import Trainer, TrainOptions

DATA = load("digits")


class Recorder(Callback):
    def __init__(self):
        self.events, self.steps, self.epochs = [], [], []

    def on_start(self, trainer):
        self.events.append("start")

    def on_step(self, report):
        self.events.append("step")
        self.steps.append(report)

    def on_epoch(self, report):
        self.events.append("epoch")
        self.epochs.append(report)

    def on_end(self, trainer, result):
        self.events.append("end")


def trainer(
    optimizer=None, seed=0, weight_decay=0.0, data=DATA, batch_norm=False, **limits
) -> tuple[Trainer, Recorder]:
    net = build("mlp", input_shape=DATA.input_shape, width=16, batch_norm=batch_norm, seed=seed, device=Device())
    recorder = Recorder()
    settings = TrainOptions(**{"epochs": 2, "batch_size": 100, **limits})
    made = Trainer(net, optimizer or Adam(0.01), Constant(), data, settings, weight_decay, seed, [recorder])
    return made, recorder


def test_every_image_is_used_once_per_epoch_in_a_new_order() -> None:
    made, recorder = trainer(epochs=2)
    seen = []
    original = made.net.step
    made.net.step = lambda x, t: (seen.append(x), original(x, t))[1]
    made.run()
    count = len(DATA.train)
    assert [s.images for s in recorder.steps[: len(recorder.steps) // 2]] == [100] * (count // 100) + [count % 100]
    first, second = np.concatenate(seen)[:count], np.concatenate(seen)[count:]
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(np.sort(first, axis=0), np.sort(second, axis=0))


def test_callbacks_are_called_in_order() -> None:
    made, recorder = trainer(max_steps=20, epochs=3)
    made.run()
    per_epoch = made.steps_per_epoch
    assert recorder.events == [
        "start", *["step"] * per_epoch, "epoch", *["step"] * (20 - per_epoch), "epoch", "end"
    ]  # fmt: skip
    assert [s.step for s in recorder.steps] == list(range(1, 21))


def test_the_best_weights_are_chosen_by_validation() -> None:
    made, recorder = trainer(epochs=6)
    result = made.run()
    accuracies = [e.metrics["val/acc"] for e in recorder.epochs]
    assert result.best_epoch == 1 + int(np.argmax(accuracies))
    assert result.test_accuracy == recorder.epochs[result.best_epoch - 1].metrics["test/acc"]
    made.net.load_state_dict(made.best_state)
    assert made.net.accuracy(DATA.validation.x, DATA.validation.t) == max(accuracies)
    assert made.net.accuracy(DATA.test.x, DATA.test.t) == result.test_accuracy
    assert result.test_accuracy > 0.8


def test_training_ends_at_the_target_test_accuracy() -> None:
    made, recorder = trainer(epochs=50, target_accuracy=0.8)
    result = made.run()
    assert recorder.epochs[-1].metrics["test/acc"] >= 0.8
    assert all(e.metrics["test/acc"] < 0.8 for e in recorder.epochs[:-1])
    assert result.steps_to_target == result.steps < made.total_steps
    assert result.seconds_to_target > 0


def test_equal_seeds_give_equal_bits_and_other_seeds_do_not() -> None:
    states = []
    for seed in (1, 1, 2):
        made, _ = trainer(seed=seed)
        made.run()
        states.append(made.net.params.flat.copy())
    np.testing.assert_array_equal(states[0], states[1])
    assert not np.array_equal(states[0], states[2])


def test_non_finite_loss_stops_training_or_is_skipped() -> None:
    made, _ = trainer(optimizer=SGD(1e30))
    with np.errstate(all="ignore"), pytest.raises(UserError, match=r"step \d+: lower optimizer.lr"):
        made.run()
    made, recorder = trainer(optimizer=SGD(1e30), on_nan="skip")
    with np.errstate(all="ignore"):
        result = made.run()
    assert len(recorder.steps) < result.steps == made.total_steps


@pytest.mark.parametrize("batch_norm", [False, True])
def test_skipped_batch_changes_neither_weights_nor_running_statistics(batch_norm: bool) -> None:
    x = DATA.train.x.copy()
    x[7] = np.nan
    broken = dataclasses.replace(DATA, train=Split(x, DATA.train.t))
    made, recorder = trainer(on_nan="skip", epochs=3, data=broken, batch_norm=batch_norm)
    with np.errstate(all="ignore"):
        result = made.run()
    assert result.steps == made.total_steps
    assert len(recorder.steps) == made.total_steps - 3
    assert all(np.isfinite(value).all() for value in made.net.state_dict().values())
    assert result.test_accuracy > 0.7


def test_without_validation_split_the_last_weights_are_best() -> None:
    made, recorder = trainer(epochs=3, data=dataclasses.replace(DATA, validation=None))
    assert made.run().best_epoch == 3
    assert all("val/acc" not in epoch.metrics and epoch.best for epoch in recorder.epochs)
    for name, value in made.net.state_dict().items():
        np.testing.assert_array_equal(made.best_state[name], value)


def test_best_weights_ignore_the_test_accuracy() -> None:
    # All validation labels are wrong: accuracy on them falls while the network learns, so an early epoch is best.
    held = DATA.validation
    wrong = dataclasses.replace(DATA, validation=Split(held.x, (held.t + 1) % 10))
    made, recorder = trainer(optimizer=Adam(0.003), epochs=6, data=wrong)
    result = made.run()
    tests = [epoch.metrics["test/acc"] for epoch in recorder.epochs]
    assert tests.index(max(tests)) + 1 != result.best_epoch
    assert result.test_accuracy == tests[result.best_epoch - 1] < max(tests)


def test_weight_decay_shrinks_weights_but_not_the_logged_loss() -> None:
    plain, first = trainer(optimizer=SGD(0.1))
    decayed, second = trainer(optimizer=SGD(0.1), weight_decay=0.1)
    assert first.steps == second.steps == []
    plain.run(), decayed.run()
    assert np.linalg.norm(decayed.net.params["W1"]) < np.linalg.norm(plain.net.params["W1"])
    assert first.steps[0].loss == second.steps[0].loss


def test_the_schedule_scales_the_learning_rate() -> None:
    class Half:
        def factor(self, epoch, epochs, losses):
            return 1 - epoch / epochs

    made, recorder = trainer(optimizer=SGD(0.2))
    made.schedule = Half()
    made.run()
    rates = [s.lr for s in recorder.steps]
    assert rates[0] == 0.2
    assert rates[len(rates) // 2] == pytest.approx(0.1)
    assert rates == sorted(rates, reverse=True)


def test_the_optimizer_has_its_learning_rate_again_after_the_training() -> None:
    for data in (DATA, dataclasses.replace(DATA, train=dataclasses.replace(DATA.train, x=DATA.train.x * np.nan))):
        optimizer = SGD(0.2)
        made, recorder = trainer(optimizer, data=data)
        made.schedule = Cosine(warmup=1)
        with nullcontext() if data is DATA else refused("lower optimizer.lr (now 0.2, 0.002 by the schedule)"):
            made.run()
        assert optimizer.lr == 0.2
    assert not recorder.steps


@pytest.mark.parametrize("name", ["val/loss", "train/epoch_loss"])
def test_the_schedule_gets_the_losses_of_all_epochs_so_far(name: str) -> None:
    """They are the validation losses, or without a validation split the mean losses of the training."""

    class Notes:
        def __init__(self):
            self.given = []

        def factor(self, epoch, epochs, losses):
            self.given.append((epoch, list(losses)))
            return 1.0

    made, _ = trainer(optimizer=SGD(0.2), epochs=3)
    if name == "train/epoch_loss":
        made._splits.pop("val")
    made.schedule = notes = Notes()
    result = made.run()
    losses = [report.metrics[name] for report in result.history]
    assert len(losses) == 3
    assert all(given == losses[: int(epoch)] for epoch, given in notes.given)


def test_a_plateau_reduces_the_learning_rate_from_the_next_epoch_on() -> None:
    made, recorder = trainer(optimizer=SGD(1e-12), epochs=4)
    made.schedule = ReduceOnPlateau(gamma=0.5, patience=1)
    made.run()
    rates = {s.epoch: s.lr for s in recorder.steps}
    assert rates == {1: 1e-12, 2: 1e-12, 3: 1e-12, 4: 0.5e-12}


def test_last_batch_of_one_image_with_batch_norm_is_reported_once_or_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    small = ["model=mlp", "data=digits", "regularization.batch_norm=true", "verify=off", "tracking=off"]
    assert len(DATA.train) % 431 == 1
    result = train.train(*composed([*small, "trainer.batch_size=431", "trainer.epochs=2"]))
    assert result.steps == 2 * (len(DATA.train) // 431)
    assert capsys.readouterr().out.count("each epoch leaves its last, single image out") == 1
    with refused("trainer.batch_size=1 ", "layer 2 (BatchNormalization)", "batches of 2 or more"):
        train.train(*composed([*small, "trainer.batch_size=1"]))
