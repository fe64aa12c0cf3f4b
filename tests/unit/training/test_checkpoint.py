"""Checkpoints are valid or refused, the last valid one is always kept, and resumed training is bit-exact."""

import os
import pickle
import random
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from hashlib import sha256

import numpy as np
import pytest
from support.assertions import refused

from nl_layers import optimizers
from nl_layers.optimizers import SGD, Adam, Momentum
from nl_layers.schedules import Cosine, ReduceOnPlateau
from nl_models import build, save_state
from nl_nodes import Device, UserError
from nl_nodes.runtime.cut import ProductCut
from nl_training.data import load
from nl_training.training.callbacks import Callback
from nl_training.training.checkpoint import Checkpoints, Snapshot, read, write
from nl_training.training.snapshot import restore, snapshot
from nl_training.training.trainer import Trainer, TrainOptions

DATA = load("digits")
RNG = random.Random(11)


def small() -> Snapshot:
    arrays = {
        "weights/W1": np.array([[1.5, -0.0, np.nan], [np.inf, 1e-45, 3.0]], np.float32),
        "points/time": np.array([2**62 + 1, -1]),
        "curve": np.array([[0.1 + 0.2, 1e-320, -np.inf]]),
        "nothing": np.zeros((0, 3)),
        "one": np.array(7.0),
        "bytes": np.arange(3, dtype=np.uint8),
        "transposed": np.arange(6.0).reshape(2, 3).T,
    }
    return Snapshot(arrays, {"step": 3, "loss": 0.1 + 0.2, "name": "여름"})


def numbered(step: int) -> Snapshot:
    return Snapshot({"x": np.full(1000, float(step))}, {"step": step})


def refusal(path) -> str:
    with pytest.raises(UserError) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_checkpoint_round_trip_is_bit_exact(tmp_path) -> None:
    write(small(), tmp_path / "a")
    found = read(tmp_path / "a")
    assert found.facts == small().facts
    assert found.arrays.keys() == small().arrays.keys()
    for name, array in small().arrays.items():
        assert (found.arrays[name].dtype, found.arrays[name].shape) == (array.dtype, array.shape)
        assert found.arrays[name].tobytes() == array.tobytes()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_flipped_bit_anywhere_is_refused(tmp_path) -> None:
    path = tmp_path / "a"
    write(small(), path)
    whole = path.read_bytes()
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << RNG.randrange(8)
        path.write_bytes(changed)
        assert "not an intact checkpoint" in refusal(path)


def test_truncated_or_longer_checkpoint_is_refused(tmp_path) -> None:
    path = tmp_path / "a"
    write(small(), path)
    whole = path.read_bytes()
    for length in {0, 1, 8, 31, 32, 33, len(whole) - 1, *(RNG.randrange(len(whole)) for _ in range(100))}:
        path.write_bytes(whole[:length])
        assert "checkpoint" in refusal(path)
    path.write_bytes(whole + b"\0")
    assert "not an intact checkpoint" in refusal(path)


def test_foreign_files_are_refused_and_not_executed(tmp_path) -> None:
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "done"),)

    (tmp_path / "pickle").write_bytes(pickle.dumps(Evil()))
    save_state({"W1": np.ones(3)}, tmp_path / "weights")
    (tmp_path / "folder").mkdir()
    for name in ("pickle", "weights", "folder", "missing"):
        assert str(tmp_path / name) in refusal(tmp_path / name)
    assert not (tmp_path / "done").exists()


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"__metadata__": 3}', b'{"__metadata__": {}}', b"[" * 100_000])
def test_valid_checksum_on_other_content_is_refused(tmp_path, text: bytes) -> None:
    data = len(text).to_bytes(8, "little") + text
    (tmp_path / "a").write_bytes(data + sha256(data).digest())
    assert "not a checkpoint of this project" in refusal(tmp_path / "a")


@contextmanager
def full_disk(size: int):
    """Within the block, no file can grow beyond this size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_failed_write_leaves_the_previous_checkpoint(tmp_path) -> None:
    path = tmp_path / "a"
    write(numbered(1), path)
    with full_disk(5000), pytest.raises(OSError, match="File too large"):
        write(numbered(2), path)
    assert read(path).facts == {"step": 1}
    assert [found.name for found in tmp_path.iterdir()] == ["a"]


def test_full_disk_gives_a_warning_and_the_next_checkpoint_is_written(tmp_path, caplog) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(numbered(1))
        assert checkpoints.collect(wait=True) is not None
        with full_disk(5000):
            checkpoints.save(numbered(2))
            assert checkpoints.collect(wait=True) is None
        assert "no checkpoint at step 2 (File too large): the one before it stays" in caplog.text
        assert checkpoints.newest().facts == {"step": 1}
        checkpoints.save(numbered(3))
        assert checkpoints.collect(wait=True).facts == {"step": 3}


def test_kill_during_a_write_leaves_the_newest_checkpoint_valid(tmp_path) -> None:
    code = (
        "import sys, pathlib, numpy as np\n"
        "from nl_training.training.checkpoint import Checkpoints, Snapshot\n"
        "with Checkpoints(pathlib.Path(sys.argv[1])) as c:\n"
        "    step = c.newest().facts['step'] if c.paths() else 0\n"
        "    while True:\n"
        "        step += 1\n"
        "        c.save(Snapshot({'x': np.full(300_000, float(step))}, {'step': step}))\n"
        "        c.collect(wait=True)\n"
        "        print(step, flush=True)\n"
    )
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        told = int(process.stdout.readline())
        time.sleep(RNG.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        told = int((process.communicate()[0].split() or [told])[-1])
        with Checkpoints(tmp_path) as checkpoints:
            newest = checkpoints.newest()
            assert newest.facts["step"] in (told, told + 1)
            np.testing.assert_array_equal(newest.arrays["x"], newest.facts["step"])
            assert all(read(path) for path in checkpoints.paths())
        assert not list(tmp_path.glob("*.part"))


def test_the_last_two_and_the_newest_best_are_kept(tmp_path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        for step in range(1, 8):
            checkpoints.save(numbered(step), best=step in (2, 4))
            checkpoints.collect(wait=True)
        steps = [read(path).facts["step"] for path in checkpoints.paths()]
    assert steps == [4, 6, 7]


def test_corrupt_newest_checkpoint_is_reported_and_the_previous_is_used(tmp_path, caplog) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(numbered(step))
            checkpoints.collect(wait=True)
        newest = checkpoints.paths()[-1]
        newest.write_bytes(newest.read_bytes()[:-5])
        assert checkpoints.newest().facts == {"step": 1}
    assert str(newest) in caplog.text


def test_run_is_trained_by_one_process_at_a_time(tmp_path) -> None:
    with Checkpoints(tmp_path), pytest.raises(UserError, match="another process"):
        Checkpoints(tmp_path).__enter__()
    with Checkpoints(tmp_path):
        pass


def _without(facts: dict, key: str) -> dict:
    return {name: value for name, value in facts.items() if name != key}


WRONG = {
    "no progress": lambda facts: _without(facts, "progress"),
    "another kind": lambda facts: facts | {"progress": [1]},
    "an unknown key": lambda facts: facts | {"progress": facts["progress"] | {"x": 1}},
    "an epoch that is none": lambda facts: facts | {"progress": facts["progress"] | {"history": [3]}},
    "no training": lambda facts: facts | {"training": None},
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_valid_checkpoint_without_training_state_is_refused(change) -> None:
    """A checkpoint made by hand, with a correct checksum."""
    made = trainer(Adam())
    found = snapshot(made)
    restore(made, found)
    with refused("checkpoint"):
        restore(made, Snapshot(found.arrays, change(found.facts)))


class Ends(Callback):
    """Requests a stop after some steps, or after an epoch's evaluation."""

    def __init__(self, step: int | None = None, epoch: int | None = None) -> None:
        self.step, self.epoch, self.error = step, epoch, None

    def on_step(self, report) -> None:
        if report.step == self.step:
            self.error = KeyboardInterrupt()

    def on_epoch(self, report) -> None:
        if report.epoch == self.epoch:
            self.error = KeyboardInterrupt()

    def stop_request(self):
        error, self.error = self.error, None
        return error


class Hears(Callback):
    """Records all values, and saves them in the checkpoints."""

    def __init__(self) -> None:
        self.heard = []

    def on_step(self, report) -> None:
        self.heard.append([report.step, report.epoch, report.loss, report.accuracy, report.lr])

    def on_epoch(self, report) -> None:
        self.heard.append([report.epoch, report.step, report.metrics, report.best])

    def state(self):
        return {}, {"heard": self.heard}

    def load_state(self, arrays, facts) -> None:
        self.heard = list(facts["heard"])


def trainer(optimizer, checkpoints=None, ends=None, seed=0, device=None, schedule=None, **limits) -> Trainer:
    net = build(
        "mlp", input_shape=DATA.input_shape, hidden=[12, 8], batch_norm=True, dropout=0.3, seed=seed, device=device
    )
    settings = TrainOptions(**{"epochs": 3, "batch_size": 100, **limits})
    callbacks = [Hears(), *([ends] if ends else [])]
    return Trainer(net, optimizer, schedule or Cosine(), DATA, settings, 1e-3, seed, callbacks, checkpoints)


def same(one: Trainer, other: Trainer) -> None:
    for found, expected in ((one.net.state_dict(), other.net.state_dict()), (one.best_state, other.best_state)):
        assert found.keys() == expected.keys()
        assert all(found[name].tobytes() == expected[name].tobytes() for name in expected)
    assert one.callbacks[0].heard == other.callbacks[0].heard
    assert one.progress.best == other.progress.best


@pytest.mark.parametrize("kind", [name for name in optimizers.__all__ if name != "Optimizer"])
def test_resumed_training_ends_like_an_uninterrupted_one(tmp_path, kind) -> None:
    cut_anywhere(tmp_path, getattr(optimizers, kind))


def test_resumed_training_has_the_learning_rate_of_the_plateaus_before(tmp_path) -> None:
    schedule = ReduceOnPlateau(gamma=0.5, patience=0, threshold=0.5)
    whole = cut_anywhere(tmp_path, Adam, schedule)
    assert whole.callbacks[0].heard[-2][-1] < whole.base_lr


def test_resumed_training_with_a_dropped_last_batch_ends_like_an_uninterrupted_one(tmp_path) -> None:
    assert len(DATA.train) % 431 == 1
    whole = cut_anywhere(tmp_path, Adam, batch_size=431)
    assert (whole.steps_per_epoch, whole.step) == (len(DATA.train) // 431, whole.total_steps)


def cut_anywhere(tmp_path, kind, schedule=None, **limits) -> Trainer:
    whole = trainer(kind(0.01), schedule=schedule, **limits)
    whole.run()
    # Within an epoch, at its last step before the evaluation, after the evaluation, and at the last step of all.
    cuts = [Ends(step=2), Ends(step=whole.steps_per_epoch), Ends(epoch=2), Ends(step=whole.total_steps)]
    for cut in [*cuts, None]:
        with Checkpoints(tmp_path) as checkpoints:
            made = trainer(kind(0.01), checkpoints, cut, schedule=schedule, **limits)
            if (found := checkpoints.newest()) is not None:
                restore(made, found)
            if cut is None:
                made.run()
            else:
                with pytest.raises(KeyboardInterrupt):
                    made.run()
    assert made.step == whole.step
    same(made, whole)
    return whole


def test_resume_at_the_last_step_only_finishes_the_training(tmp_path) -> None:
    class Breaks(Callback):
        def on_end(self, trainer, result):
            raise ValueError("killed here")

    with Checkpoints(tmp_path) as checkpoints:
        first = trainer(Adam(0.01), checkpoints, Breaks())
        with pytest.raises(ValueError, match="killed here"):
            first.run()
        again = trainer(Adam(0.01), checkpoints)
        restore(again, checkpoints.newest())
        heard = list(again.callbacks[0].heard)
        result = again.run()
    assert again.callbacks[0].heard == heard  # no step was made
    assert result == first._result()
    assert result.steps == first.total_steps


def test_checkpoint_is_due_by_steps_and_by_seconds(tmp_path) -> None:
    by_steps, by_seconds = Checkpoints(tmp_path, every_steps=3), Checkpoints(tmp_path, every_seconds=1e-6)
    assert [by_steps.due(step) for step in range(1, 7)] == [False, False, True, False, False, True]
    assert by_seconds.due(1)
    assert not Checkpoints(tmp_path, every_seconds=3600.0).due(1)
    assert not Checkpoints(tmp_path).due(1)


def test_checkpoint_has_the_state_at_its_step_while_training_continues(tmp_path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        made = trainer(Adam(0.01), checkpoints)
        made.net.step(DATA.train.x[:50], DATA.train.t[:50])
        expected = made.net.state_dict()
        taken = snapshot(made)
        made.run()
    for name, array in expected.items():
        assert taken.arrays[f"weights/{name}"].tobytes() == array.tobytes()


def test_checkpoint_of_another_training_is_refused_and_named(tmp_path) -> None:
    write(snapshot(trainer(Adam(0.01))), tmp_path / "a")
    found = read(tmp_path / "a")
    for other, name in (
        (trainer(SGD(0.01)), "optimizer is Adam, not SGD"),
        (trainer(Adam(0.01), seed=1), "network"),
        (trainer(Adam(0.01), batch_size=50), "batch size is 100, not 50"),
    ):
        before = other.net.state_dict()
        with pytest.raises(UserError, match=name) as caught:
            restore(other, found)
        assert "\n" not in str(caught.value)
        assert all(np.array_equal(before[key], value) for key, value in other.net.state_dict().items())


def test_checkpoint_of_another_precision_can_be_resumed(tmp_path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(KeyboardInterrupt):
            trainer(Adam(0.01), checkpoints, Ends(step=4)).run()
        made = trainer(Adam(0.01), device=Device(dtype="float64"))
        restore(made, checkpoints.newest())
    assert made.net.params.flat.dtype == np.float64
    assert {a.dtype for slots in made.optimizer.state.values() for a in slots.values()} == {np.dtype("float64")}
    made.run()


def test_raised_epoch_limit_continues_with_the_next_epoch(tmp_path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(KeyboardInterrupt):
            trainer(Adam(0.01), checkpoints, Ends(epoch=1), max_steps=5).run()
        made = trainer(Adam(0.01), max_steps=30)
        restore(made, checkpoints.newest())
    assert made.run().steps == 30
    # The first epoch ended after 5 steps; the others are complete, except the last.
    assert [epoch.step for epoch in made.progress.history] == [5, 5 + made.steps_per_epoch, 30]


def limited(monkeypatch: pytest.MonkeyPatch, limit: int | None) -> Trainer:
    """Return a trainer whose plans cut products with more multiplications than this."""
    net = build("mlp", width=10, input_shape=(1, 8, 8), seed=3, device=Device(threads=1))
    monkeypatch.setattr(net.device.executor, "product_cut", limit and ProductCut(limit, narrow=True))
    return Trainer(net, Momentum(0.1), Cosine(), DATA, TrainOptions(epochs=1, batch_size=256))


def test_a_run_recorded_with_a_cut_of_products_goes_on_with_its_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    there, here = limited(monkeypatch, 4000), limited(monkeypatch, None)
    saved = snapshot(there)
    assert saved.facts["executor"] == {"product_cut": [4000, True]}
    restore(here, saved)
    here.run(), there.run()
    assert snapshot(here).facts["executor"] == {"product_cut": None}
    shapes = [
        {args[2].shape for name, args in t.net.plan(True, 256).calls[0] if name == "matmul"} for t in (there, here)
    ]
    assert shapes[0] != shapes[1]
    for name, value in there.net.params.items():
        np.testing.assert_allclose(here.net.params[name], value, rtol=1e-3, atol=1e-4)
