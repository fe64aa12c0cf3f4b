"""Runs that are killed or stopped and go on, in real processes and a real store: the end is the undisturbed run's."""

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from omegaconf import OmegaConf
from support.processes import SMALL, Lab, Outcome

from nl_nodes import UserError
from nl_training.tracking.process import this_process
from nl_training.tracking.resume import find
from nl_training.tracking.run import CONFIG, PROCESS
from nl_training.training.checkpoint import read


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    made = Lab(tmp_path_factory.mktemp("lab"), seed=3)
    yield made
    made.clean()


@pytest.fixture(scope="module")
def whole(lab: Lab) -> Outcome:
    return lab.whole(*SMALL)


def test_the_undisturbed_run_has_each_point_once(whole: Outcome) -> None:
    assert whole.status == "FINISHED"
    assert whole.weights.keys() == {"best.safetensors", "final.safetensors"}
    assert whole.models == 1
    steps = [step for key, step, _ in whole.points if key == "train/loss"]
    assert sorted(steps) == list(range(1, len(steps) + 1))
    assert set(whole.points.values()) == {1}


def test_killed_three_times_it_ends_as_if_nothing_had_been(lab: Lab, whole: Outcome) -> None:
    run_id, kills = lab.killed(3, *SMALL)
    assert kills
    found = lab.outcome(run_id)
    assert found.weights == whole.weights
    assert found.points == whole.points
    assert found == whole


def test_interrupted_it_is_saved_and_goes_on(lab: Lab, whole: Outcome) -> None:
    life = lab.open(*SMALL)
    life.until("epoch   2 ")
    life.process.send_signal(signal.SIGINT)
    code, out, err = life.ended()
    assert code == 130, err
    assert f"python scripts/train.py resume={life.run_id}" in out
    assert "Traceback" not in err
    stopped = lab.outcome(life.run_id)
    assert stopped.status == "KILLED"
    again = lab.start(f"resume={life.run_id}").opened()
    # The step that was finished is the one that is saved, and the store has all up to it.
    assert again.step == max(step for key, step, _ in stopped.points if key == "train/loss")
    code, _, err = again.ended()
    assert (code, err) == (0, "")
    assert lab.outcome(life.run_id) == whole


def test_terminated_it_goes_on_with_other_limits(lab: Lab, whole: Outcome) -> None:
    life = lab.open(*SMALL, "trainer.epochs=100000")
    life.until("epoch   3 ")
    with pytest.raises(UserError, match=rf"{life.run_id}: process {life.process.pid} is training it"):
        find(lab.store, life.run_id, [])
    with pytest.raises(UserError, match=r"resume=latest: .* no unfinished run"):
        find(lab.store, "latest", [])
    life.process.terminate()
    code, _, err = life.ended()
    assert code == 143, err
    last = read(lab.checkpoints(life.run_id)[-1]).facts["step"]
    again = lab.start("resume=latest", f"trainer.max_steps={last + 30}", "trainer.epochs=90000").opened()
    assert (again.run_id, again.step) == (life.run_id, last)
    code, out, err = again.ended()
    assert (code, err) == (0, "")
    assert f"{last + 30:,} steps" in out
    run = lab.store.client.get_run(life.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["resumed.trainer.max_steps"] == str(last + 30)
    assert "error" not in run.data.tags


def test_a_finished_run_prints_its_result(lab: Lab, whole: Outcome) -> None:
    code, out, err = lab.start(f"resume={whole.run_id}", "trainer.epochs=70").ended()
    assert (code, err) == (0, "")
    (accuracy,) = (value for key, _, value in whole.points if key == "final/test_acc")
    assert f"test accuracy {accuracy:.4f}" in out
    assert "trainer.epochs=70 would change nothing" in out


@pytest.mark.parametrize("text", ["optimizer.lr=0.1", "model=mlp", "tracking=off", "seed=1", "trainer.batch_size=7"])
def test_what_cannot_change_is_refused(lab: Lab, whole: Outcome, text: str) -> None:
    with pytest.raises(UserError, match=rf"{text}: .*trainer\.epochs, trainer\.max_steps, device") as caught:
        find(lab.store, whole.run_id, [f"resume={whole.run_id}", text])
    assert "\n" not in str(caught.value)


def test_a_run_that_cannot_go_on_is_refused(lab: Lab, whole: Outcome) -> None:
    client = lab.store.client
    other = client.create_run(lab.store.experiment_id).info.run_id
    with pytest.raises(UserError, match=r"not a training of scripts/train\.py"):
        find(lab.store, other, [])
    with pytest.raises(UserError, match=r"resume=latest: .* no unfinished run"):
        find(lab.store, "latest", [])
    # On another machine, whose checkpoints are not here.
    text = client.get_run(whole.run_id).data.tags[CONFIG]
    tags = {CONFIG: text, PROCESS: "elsewhere 1 2.0"}
    away = client.create_run(lab.store.experiment_id, tags=tags).info.run_id
    client.log_metric(away, "train/loss", 1.0, step=1)
    with pytest.raises(UserError, match="machine elsewhere; copy them to"):
        find(lab.store, away, [])
    # Left running on this one by a process that is gone: it is the latest.
    tags = {CONFIG: text, PROCESS: this_process().rpartition(" ")[0] + " 1.0"}
    left = client.create_run(lab.store.experiment_id, tags=tags).info.run_id
    assert client.get_run(left).info.status == "RUNNING"
    assert find(lab.store, "latest", []).run_id == left
    client.delete_run(left)
    client.delete_run(away)
    with pytest.raises(UserError, match=f"resume={away} is not in"):
        find(lab.store, away, [])


def test_the_device_beside_resume_is_taken_and_nothing_else(lab: Lab, whole: Outcome) -> None:
    composed = OmegaConf.create({"device": {"name": "cpu", "threads": 2, "dtype": "float64"}, "seed": 5})
    own = OmegaConf.create(lab.store.client.get_run(whole.run_id).data.tags[CONFIG])
    found = find(lab.store, whole.run_id, ["device.threads=2"]).config(composed)
    assert found.device.threads == 2
    own.device.threads = 2
    assert found == own
    assert find(lab.store, whole.run_id, ["device=cpu"]).config(composed).device == composed.device


@pytest.mark.parametrize(("name", "expected"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_second_signal_ends_at_once(name: str, expected: int) -> None:
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
def test_a_signal_whose_exception_is_lost_in_a_destructor_is_still_asked_for(name: str, expected: str) -> None:
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
