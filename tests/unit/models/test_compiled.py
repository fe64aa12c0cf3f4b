"""Compiled networks give the reference's results for every executor and batch size."""

import gc
import os
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from support.fused_contract import chunks_of
from support.small_models import WIDTHS, fits

from nl_models import build, cnn3
from nl_models.network import BATCH_SIZES
from nl_nodes import Device
from nl_nodes.compiler import Plan
from nl_nodes.compiler.lower.trace import Tape, Traced
from nl_nodes.runtime.executor import merge_calls, parallel_workers

NARROW = {"mlp": 10, "cnn3": 8, "simple_convnet": 5, "cnn8": 32, "vgg11": 8, "vgg16": 8, "resnet20": 4, "resnet18": 4}
assert set(NARROW) == set(WIDTHS)
FORMS = [
    {},
    {"batch_norm": "before_activation", "dropout": 0.3},
    {"batch_norm": "after_activation", "activation": "tanh", "init": "xavier"},
    {"batch_norm": "before_affine"},
    {"activation": "sigmoid", "init": "xavier"},
]
WORKERS = [("threads", 1), ("threads", 2), ("processes", 2)]
rng = np.random.default_rng(0)
X, T = rng.standard_normal((7, 1, 28, 28)), rng.integers(0, 10, 7)


def network(name: str, dtype: str = "float64", **device):
    form = device.pop("form", {})
    return build(
        name, width=NARROW[name], input_shape=X.shape[1:], seed=2, device=Device(dtype=dtype, **device), **form
    )


def trained(net, *counts: int) -> dict[str, np.ndarray]:
    """Return all results and the final state of steps on batches of these sizes."""
    for count in counts or (7,):
        done = net.step(X[:count], T[:count])
        net.params.flat -= 0.05 * done.grads.flat
    grads = {f"d{name}": grad.copy() for name, grad in done.grads.items()}
    return {**net.state_dict(), **grads, "loss": np.asarray(done.loss), "logits": done.logits, "seen": net.predict(X)}


CASES = [(name, form) for name in sorted(NARROW) for form in FORMS if fits(name, form)]


@pytest.mark.parametrize(
    ("name", "form"), CASES, ids=lambda part: part if isinstance(part, str) else "-".join(map(str, part.values()))
)
def test_compiled_network_matches_the_reference(name: str, form: dict) -> None:
    expected = trained(network(name, compile=False, form=form))
    results = [trained(network(name, form=form, workers=w, threads=n)) for w, n in WORKERS]
    largest = max(np.abs(value).max() for key, value in expected.items() if key.startswith("d"))
    for found in results:
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            # A gradient that is the remainder of cancelling terms is accurate relative to the largest gradient.
            scale = largest if key == "dgamma1" and form.get("batch_norm") == "before_affine" else np.abs(value).max()
            np.testing.assert_allclose(found[key], value, rtol=0, atol=1e-12 * max(scale, 1e-3), err_msg=key)
    for key, value in results[1].items():
        np.testing.assert_array_equal(results[2][key], value, err_msg=f"threads and processes differ in {key}")


@pytest.mark.parametrize("name", ["cnn8", "vgg11"])
def test_chunked_batch_with_a_smaller_last_chunk_matches_the_reference(name: str) -> None:
    expected = trained(network(name, compile=False))
    with chunks_of(2):
        found = trained(network(name, workers="threads", threads=1))
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=0, atol=1e-12 * max(np.abs(value).max(), 1e-3), err_msg=key)


def test_batches_of_any_size_and_any_number_of_workers() -> None:
    form = {"batch_norm": True, "dropout": 0.3}
    expected = trained(network("cnn8", compile=False, form=form), 7, 4, 1, 7)
    for workers, count in [*WORKERS, ("processes", 3), ("threads", 5)]:
        found = trained(network("cnn8", form=form, workers=workers, threads=count), 7, 4, 1, 7)
        for key, value in expected.items():
            np.testing.assert_allclose(found[key], value, rtol=0, atol=1e-10 * np.abs(value).max(), err_msg=key)


@pytest.mark.parametrize("workers", ["threads", "processes"])
def test_the_same_seed_gives_the_same_bits(workers: str) -> None:
    form = {"batch_norm": True, "dropout": 0.5}
    one, two = (trained(network("cnn8", "float32", form=form, workers=workers, threads=2), 7, 4) for _ in range(2))
    for key, value in one.items():
        np.testing.assert_array_equal(value, two[key])


def test_more_workers_than_cores_give_the_same_bits() -> None:
    form = {"batch_norm": True, "dropout": 0.5}
    many, alone = network("cnn8", form=form, workers="threads", threads=7), network("cnn8", form=form, threads=1)
    assert parallel_workers(7) < 7
    found, plan = trained(many, 7, 7), many.plan(True, 7)
    assert len(plan.calls) == 7
    assert len(merge_calls(plan.calls, 2)) == 2
    assert sum(map(len, merge_calls(plan.calls, 2))) < sum(map(len, plan.calls))  # fewer barriers, the same other calls
    for key, value in trained(network("cnn8", form=form, workers="processes", threads=7), 7, 7).items():
        np.testing.assert_array_equal(found[key], value, err_msg=key)
    for key, value in trained(alone, 7, 7).items():
        np.testing.assert_allclose(found[key], value, rtol=0, atol=1e-10 * np.abs(value).max(), err_msg=key)


def test_float32_matches_float64_up_to_rounding() -> None:
    exact, single = (trained(network("cnn8", dtype, threads=2)) for dtype in ("float64", "float32"))
    for key, value in exact.items():
        # Twenty rounding errors of single precision, relative to the largest value.
        assert np.abs(single[key] - value).max() <= 20 * 2**-20 * np.abs(value).max(), key


def test_plan_is_compiled_once_per_batch_size() -> None:
    net = network("cnn3")
    for count in (7, 4, 7, 4, 7):
        net.step(X[:count], T[:count])
    net.predict(X)
    assert sorted(net._plans) == [(False, 7, False), (True, 4, False), (True, 7, False)]


def test_memory_does_not_grow_with_new_batch_sizes() -> None:
    net = network("cnn3", workers="processes", threads=2)
    images, labels = np.concatenate([X] * 6), np.concatenate([T] * 6)
    others = plans()

    def memory(sizes: range) -> int:
        for count in sizes:
            net.predict(images[:count])
            net.step(images[:count], labels[:count])
        assert plans() - others <= BATCH_SIZES
        return sum(shared_memory(pid) for pid in (os.getpid(), *children()))

    # The first sizes are the largest, so later ones need no more memory.
    first = memory(range(42, 25, -1))
    assert memory(range(25, 9, -1)) <= first
    assert first > 0


def plans() -> int:
    """Return the number of existing plans."""
    return sum(type(found) is Plan for found in gc.get_objects())


def shared_memory(pid: int) -> int:
    """Return the bytes of shared memory that a process maps."""
    with open(f"/proc/{pid}/smaps") as file:
        lines = file.read().splitlines()
    at = [i for i, line in enumerate(lines) if "nl-nodes" in line]
    return sum(int(lines[i + 1].split()[1]) for i in at)


def test_steps_allocate_only_numpys_small_buffers() -> None:
    net = network("cnn8", "float32", form={"batch_norm": True}, threads=2)
    x, t = np.repeat(X, 8, axis=0), np.repeat(T, 8)
    x = x.astype("float32")
    for _ in range(3):
        net.step(x, t)
    gc.collect()
    tracemalloc.start()
    try:
        net.step(x, t)
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        for _ in range(5):
            net.step(x, t)
        now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert now - before < 4096
    # A ufunc may allocate three temporary buffers of 8,192 numbers; one worker's first feature map has 700,000 bytes.
    assert peak - before < 200_000


def test_workers_end_with_the_network() -> None:
    others = set(children())
    net = network("mlp", workers="processes", threads=7)  # no other test uses this executor
    net.step(X, T)
    own = set(children()) - others
    assert len(own) == parallel_workers(7) - 1
    del net
    gc.collect()
    assert not set(children()) & own


ENDS = {
    "killed": "os.kill(os.getpid(), signal.SIGKILL)",
    "exit": "sys.exit(3)",
    "exit at once": "os._exit(3)",
    "interrupted": "raise KeyboardInterrupt",
    "refused input": "net.load(__file__)",
    "the end": "",
}


STEP = """
import os, signal, sys
import numpy as np
from nl_models import mlp
from nl_nodes import Device

net = mlp(device=Device(workers="processes", threads=2))
net.step(np.zeros((4, 1, 28, 28)), np.zeros(4, dtype=int))
print(*[c.pid for c in net.device.executor.children], flush=True)
"""


def python(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=60, cwd=cwd)


KILLED_IN_ITS_FIRST_PASS = """
import os, signal
from nl_nodes.runtime import Processes

send = Processes._send

def send_and_end(self, link, message, descriptor=None):
    send(self, link, message, descriptor)
    if "run" in message:
        print(self.children[0].pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)  # before the worker's interpreter runs

Processes._send = send_and_end
executor = Processes(2)
executor.run(executor.load([[], []]), 0)
"""


@pytest.mark.parametrize(
    "text",
    [*(STEP + end for end in ENDS.values()), KILLED_IN_ITS_FIRST_PASS],
    ids=[*ENDS, "killed in its first pass"],
)
def test_workers_end_with_the_process(text: str, tmp_path) -> None:
    """A script without a `__main__` guard, for each way in which it can end."""
    script = tmp_path / "unguarded.py"
    script.write_text(text)
    done = python(str(script))
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 1, done.stderr
    until = time.monotonic() + 10
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < until, "a worker outlived its parent"
        time.sleep(0.05)


def test_workers_start_beside_a_file_named_like_a_standard_module(tmp_path) -> None:
    """The working directory is not on the module path of a script, nor of its workers."""
    script, away = tmp_path / "step.py", tmp_path / "away"
    script.write_text(STEP)
    away.mkdir()
    (away / "typing.py").touch()
    done = python(str(script), cwd=away)
    assert done.returncode == 0, done.stderr


def test_killed_worker_raises_an_error(capfd) -> None:
    from nl_nodes import DeviceError

    net = network("mlp", workers="processes", threads=2)
    net.step(X, T)
    net.device.executor.children[0].kill()
    net.device.executor.children[0].wait()
    with pytest.raises(DeviceError, match="worker process ended"):
        net.step(X, T)
    assert np.isfinite(network("mlp", workers="processes", threads=2).step(X, T).loss)  # with new workers


def children() -> list[int]:
    command = ["pgrep", "-P", str(os.getpid()), "-f", "runtime.worker_main"]
    found = subprocess.run(command, capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_deleted_network_frees_its_memory() -> None:
    """Traced arrays and their tape refer to each other in a way that Python's garbage collector cannot follow."""
    x, t = np.zeros((4, 1, 28, 28)), np.zeros(4, int)
    before = recordings()
    cnn3(width=8, device=Device(threads=1)).step(x, t)
    left = [found for found in recordings() if not any(found is known for known in before)]
    assert len(left) == 0


def recordings() -> list[Traced | Tape]:
    gc.collect()
    return [found for found in gc.get_objects() if type(found) in (Traced, Tape)]
