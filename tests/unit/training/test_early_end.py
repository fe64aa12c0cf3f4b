"""Early stopping and the time limit, alone and resumed."""

import dataclasses
from pathlib import Path

import pytest
from support.assertions import refused

from nl_layers.optimizers import Adam
from nl_layers.schedules import Cosine
from nl_models import build
from nl_nodes import Device
from nl_training.commands.train import experiment, refuse_ignored, train
from nl_training.config.cli import check, composed
from nl_training.data import Split, load
from nl_training.interrupts import status_of
from nl_training.training.callbacks import Callback, TimeLimit
from nl_training.training.checkpoint import Checkpoints
from nl_training.training.snapshot import restore
from nl_training.training.trainer import Trainer, TrainOptions

DATA = load("digits", limit=400)
# Accuracy on wrong labels falls while the network learns, so an early epoch is best.
WRONG = dataclasses.replace(DATA, validation=Split(DATA.validation.x, (DATA.validation.t + 1) % 10))


class AnHourAt(Callback):
    """Lets a step, or the evaluation of an epoch, take an hour."""

    def __init__(self, step: int = 0, epoch: int = 0) -> None:
        self.step, self.epoch = step, epoch

    def on_start(self, trainer) -> None:
        self.trainer = trainer

    def on_batch(self, trainer, step, x, t) -> None:
        trainer.started -= 3600 * (step == self.step)

    def on_epoch(self, report) -> None:
        self.trainer.started -= 3600 * (report.epoch == self.epoch)


def trainer(checkpoints=None, callbacks=(), **options) -> Trainer:
    net = build("mlp", input_shape=DATA.input_shape, hidden=[8], batch_norm=True, device=Device(threads=1))
    settings = TrainOptions(**{"epochs": 30, "batch_size": 100, **options})
    return Trainer(net, Adam(0.01), Cosine(), WRONG, settings, callbacks=callbacks, checkpoints=checkpoints)


def weights(made: Trainer) -> dict[str, bytes]:
    states = {"last": made.net.state_dict(), "best": made.best_state}
    return {f"{which}/{name}": value.tobytes() for which, state in states.items() for name, value in state.items()}


def test_training_ends_after_so_many_epochs_without_a_better_validation_accuracy() -> None:
    result = trainer(patience=4).run()
    assert result.epochs == result.best_epoch + 4 < 30
    accuracies = [epoch.metrics["val/acc"] for epoch in result.history]
    assert max(accuracies[result.best_epoch :]) <= accuracies[result.best_epoch - 1]


def test_time_limit_and_patience_resume_to_the_same_bits_and_metrics(tmp_path: Path) -> None:
    whole = trainer(patience=4)
    expected = whole.run()
    last = whole.step
    with Checkpoints(tmp_path) as checkpoints:
        # Within an epoch, at its last step, and at the step before the last.
        for number, step in enumerate([2, whole.steps_per_epoch, last - 1], 1):
            made = trainer(checkpoints, [AnHourAt(step)], patience=4, max_seconds=3600 * number)
            if (newest := checkpoints.newest()) is not None:
                restore(made, newest)
            with pytest.raises(TimeLimit, match=rf"trainer\.max_seconds={3600 * number} is reached in epoch \d+"):
                made.run()
            assert checkpoints.newest().facts["step"] == made.step == step
        same = trainer(checkpoints, patience=4, max_seconds=3600)  # not larger: no step is taken
        restore(same, checkpoints.newest())
        with pytest.raises(TimeLimit):
            same.run()
        assert same.step == last - 1
        # After the last evaluation the training is over, so that no time limit ends it.
        made = trainer(checkpoints, [AnHourAt(epoch=expected.epochs)], patience=4, max_seconds=3600 * 4)
        restore(made, checkpoints.newest())
        found = made.run()
    assert weights(made) == weights(whole)
    assert [epoch.metrics for epoch in found.history] == [epoch.metrics for epoch in expected.history]
    assert (found.steps, found.best_epoch) == (expected.steps, expected.best_epoch)


def test_a_run_at_its_time_limit_is_not_finished() -> None:
    assert status_of(TimeLimit("trainer.max_seconds=1 is reached")) == "KILLED"


@pytest.mark.parametrize(
    "option",
    [
        "trainer.max_seconds=3",
        "trainer.checkpoint_every_steps=5",
        "trainer.profile=true",
        "tracking.files=csv",
        "tracking.draw=true",
        "verify.probe_every=4",
    ],
)
def test_a_study_of_several_trainings_refuses_settings_of_a_single_one(option: str) -> None:
    with refused(option.partition("=")[0], "experiment=overfit"):
        experiment(*composed(["experiment=overfit", option]))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["trainer.patience=3", "data.validation=0"], ["trainer.patience", "data.validation above 0"]),
        (["trainer.max_seconds=3", "tracking=off"], ["trainer.max_seconds", "tracking=mlflow"]),
    ],
)
def test_a_limit_that_cannot_hold_is_refused(overrides: list[str], said: list[str]) -> None:
    with refused(*said):
        refuse_ignored(check(overrides, multirun=False))


@pytest.mark.parametrize("epochs", [2, 4])
def test_an_early_end_is_told_only_where_epochs_are_left(epochs: int, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["data=digits", "data.limit=200", "model=mlp", "model.hidden=[8]", "verify=off", "tracking=off"]
    options += ["optimizer.lr=1e-12", "trainer.patience=1", f"trainer.epochs={epochs}"]  # no epoch is better
    train(*composed(options))
    assert ("ended early: no better validation accuracy in 1 epochs" in capsys.readouterr().out) == (epochs > 2)
