"""Killed or stopped runs resumed in real processes and a real store end like an uninterrupted run."""

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from omegaconf import OmegaConf
from support.processes import SMALL_TRAINING, Outcome, TrainingRuns

from nl_nodes import UserError
from nl_training.paths import program
from nl_training.tracking.process import this_process
from nl_training.tracking.resume import find
from nl_training.tracking.run import CONFIG, PROCESS
from nl_training.training.checkpoint import read


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainingRuns]:
    made = TrainingRuns(tmp_path_factory.mktemp("runs"), seed=3)
    yield made
    made.clean()


@pytest.fixture(scope="module")
def whole(runs: TrainingRuns) -> Outcome:
    return runs.whole(*SMALL_TRAINING)


def test_uninterrupted_run_has_each_metric_value_once(whole: Outcome) -> None:
    assert whole.status == "FINISHED"
    assert whole.weights.keys() == {"best.safetensors", "final.safetensors"}
    assert whole.models == 1
    steps = [step for key, step, _ in whole.points if key == "train/loss"]
    assert sorted(steps) == list(range(1, len(steps) + 1))
    assert set(whole.points.values()) == {1}


def test_run_killed_three_times_ends_like_an_uninterrupted_one(runs: TrainingRuns, whole: Outcome) -> None:
    run_id, kills = runs.killed(3, *SMALL_TRAINING)
    assert kills
    found = runs.outcome(run_id)
    assert found.weights == whole.weights
    assert found.points == whole.points
    assert found == whole


def test_regularized_run_killed_twice_ends_like_an_uninterrupted_one(runs: TrainingRuns) -> None:
    arguments = [*SMALL_TRAINING, "regularization=modern", "regularization.mixup=0.2"]
    expected = runs.whole(*arguments)
    assert expected.weights.keys() == {"best.safetensors", "final.safetensors", "ema.safetensors"}
    assert len(set(expected.weights.values())) == 3
    keys = {key for key, _, _ in expected.points}
    assert {"grad_norm", "val/loss_ema", "val/acc_ema", "final/test_loss_ema", "final/test_acc_ema"} <= keys
    assert sum(key == "grad_norm" for key, _, _ in expected.points) == sum(
        key == "train/loss" for key, _, _ in expected.points
    )
    run_id, kills = runs.killed(2, *arguments)
    assert kills
    assert runs.outcome(run_id) == expected


def test_interrupted_run_is_saved_and_resumed(runs: TrainingRuns, whole: Outcome) -> None:
    training = runs.open(*SMALL_TRAINING)
    training.until("epoch   2 ")
    training.process.send_signal(signal.SIGINT)
    code, out, err = training.ended()
    assert code == 130, err
    assert f"train resume={training.run_id}" in out
    assert "Traceback" not in err
    stopped = runs.outcome(training.run_id)
    assert stopped.status == "KILLED"
    again = runs.start(f"resume={training.run_id}").opened()
    # The last completed step is saved, and the store has all metrics up to it.
    assert again.step == max(step for key, step, _ in stopped.points if key == "train/loss")
    code, _, err = again.ended()
    assert (code, err) == (0, "")
    assert runs.outcome(training.run_id) == whole


def test_a_run_at_its_time_limit_is_resumed_with_a_larger_one(runs: TrainingRuns, whole: Outcome) -> None:
    training = runs.open(*SMALL_TRAINING, "trainer.max_seconds=0.01")
    code, out, err = training.ended()
    assert (code, err) == (0, "")
    assert f"trainer.max_seconds=0.01 is reached in epoch 1; {program()} train resume={training.run_id}" in out
    assert runs.outcome(training.run_id).status == "KILLED"
    assert find(runs.store, "latest", []).run_id == training.run_id
    runs.store.client.set_tag(training.run_id, "search.trial", "3")
    with pytest.raises(UserError, match=r"resume=latest: .* no unfinished training"):
        find(runs.store, "latest", [])
    code, _, err = runs.start(f"resume={training.run_id}", "trainer.max_seconds=1000").ended()
    assert (code, err) == (0, "")
    assert runs.outcome(training.run_id) == whole


def test_terminated_run_is_resumed_with_other_limits(runs: TrainingRuns, whole: Outcome) -> None:
    training = runs.open(*SMALL_TRAINING, "trainer.epochs=100000")
    training.until("epoch   3 ")
    with pytest.raises(UserError, match=rf"{training.run_id}: process {training.process.pid} is training it"):
        find(runs.store, training.run_id, [])
    with pytest.raises(UserError, match=r"resume=latest: .* no unfinished training"):
        find(runs.store, "latest", [])
    training.process.terminate()
    code, _, err = training.ended()
    assert code == 143, err
    last = read(runs.checkpoints(training.run_id)[-1]).facts["step"]
    again = runs.start("resume=latest", f"trainer.max_steps={last + 30}", "trainer.epochs=90000").opened()
    assert (again.run_id, again.step) == (training.run_id, last)
    code, out, err = again.ended()
    assert (code, err) == (0, "")
    assert f"{last + 30:,} steps" in out
    run = runs.store.client.get_run(training.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["resumed.trainer.max_steps"] == str(last + 30)
    assert "error" not in run.data.tags


def test_a_finished_run_prints_its_result(runs: TrainingRuns, whole: Outcome) -> None:
    code, out, err = runs.start(f"resume={whole.run_id}", "trainer.epochs=70").ended()
    assert (code, err) == (0, "")
    (accuracy,) = (value for key, _, value in whole.points if key == "final/test_acc")
    assert f"test accuracy {accuracy:.4f}" in out
    assert "trainer.epochs=70 would change nothing" in out


@pytest.mark.parametrize("text", ["optimizer.lr=0.1", "model=mlp", "tracking=off", "seed=1", "trainer.batch_size=7"])
def test_resume_refuses_fixed_options(runs: TrainingRuns, whole: Outcome, text: str) -> None:
    with pytest.raises(
        UserError, match=rf"{text}: .*trainer\.epochs, trainer\.max_steps, trainer\.max_seconds, device"
    ) as caught:
        find(runs.store, whole.run_id, [f"resume={whole.run_id}", text])
    assert "\n" not in str(caught.value)


def test_run_that_cannot_be_resumed_is_refused(runs: TrainingRuns, whole: Outcome) -> None:
    client = runs.store.client
    other = client.create_run(runs.store.experiment_id).info.run_id
    with pytest.raises(UserError, match="not a training of nl train"):
        find(runs.store, other, [])
    with pytest.raises(UserError, match=r"resume=latest: .* no unfinished training"):
        find(runs.store, "latest", [])
    # On another machine, whose checkpoints are not available here.
    text = runs.store.text(whole.run_id, CONFIG)
    away = client.create_run(runs.store.experiment_id, tags={PROCESS: "elsewhere 1 2.0"}).info.run_id
    client.log_text(away, text, CONFIG)
    client.log_metric(away, "train/loss", 1.0, step=1)
    with pytest.raises(UserError, match="machine elsewhere; copy them to"):
        find(runs.store, away, [])
    # A run on this machine whose process has ended: it is the latest.
    gone = this_process().rpartition(" ")[0] + " 1.0"
    left = client.create_run(runs.store.experiment_id, tags={PROCESS: gone}).info.run_id
    client.log_text(left, text, CONFIG)
    assert client.get_run(left).info.status == "RUNNING"
    assert find(runs.store, "latest", []).run_id == left
    client.delete_run(left)
    client.delete_run(away)
    with pytest.raises(UserError, match=f"resume={away} is not in"):
        find(runs.store, away, [])


def test_resume_accepts_only_the_device_options(runs: TrainingRuns, whole: Outcome) -> None:
    composed = OmegaConf.create({"device": {"name": "cpu", "threads": 2, "dtype": "float64"}, "seed": 5})
    own = OmegaConf.create(runs.store.text(whole.run_id, CONFIG))
    found = find(runs.store, whole.run_id, ["device.threads=2"]).config(composed)
    assert found.device.threads == 2
    own.device.threads = 2
    assert found == own
    assert find(runs.store, whole.run_id, ["device=cpu"]).config(composed).device == composed.device


@pytest.mark.parametrize(("name", "expected"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_second_signal_ends_the_process_immediately(name: str, expected: int) -> None:
    code = (
        "import signal, time\n"
        "from nl_training.interrupts import Interrupts\n"
        "with Interrupts() as interrupts:\n"
        "    interrupts.hold()\n"
        f"    signal.raise_signal(signal.{name})\n"
        "    print('held', flush=True)\n"
        f"    signal.raise_signal(signal.{name})\n"
        "    time.sleep(60)\n"
        "    print('not reached')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout) == (expected, "held\n")


@pytest.mark.parametrize(("name", "expected"), [("SIGINT", "KeyboardInterrupt()"), ("SIGTERM", "Terminated(143)")])
def test_stop_request_survives_an_exception_lost_in_a_destructor(name: str, expected: str) -> None:
    code = (
        "import signal\n"
        "from nl_training.interrupts import Interrupts\n"
        "class Dying:\n"
        "    def __del__(self):\n"
        f"        signal.raise_signal(signal.{name})\n"
        "with Interrupts() as interrupts:\n"
        "    dying = Dying()\n"
        "    del dying\n"
        "    print(repr(interrupts.take_pending()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout.strip()) == (0, expected), done.stderr
