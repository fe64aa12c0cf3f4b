"""PyTorch's pass, as the benchmark of GPUs measures it: the same loss in all forms, and what its table says."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from support.scripts import SCRIPTS, run_script

from nl_models import build
from nl_nodes import Device

pytestmark = pytest.mark.peers

SMALL = {"width": 4, "classes": 4}


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return import_module("bench_gpu_torch")


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_a_pass_has_the_networks_loss(bench: Any, layout: str) -> None:
    net = build("cnn3", device=Device(compile=False), **SMALL)
    feeds = bench.feeds_for(net, 6)
    run = import_module("torch_step").training_pass(net, feeds["x"], feeds["t"], bench.Setting(layout, False), "cpu")
    expected = float(net.step(feeds["x"], feeds["t"]).loss)
    assert [float(run()) for _ in range(2)] == pytest.approx([expected] * 2, rel=1e-5)


def test_eager_passes_are_measured_and_compared(bench: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bench, "MODES", ("eager",))
    monkeypatch.setattr(import_module("torch_step"), "STEPS", 1)
    results: dict[str, Any] = {}
    bench.compare(["mlp", "cnn3"], 4, bench.Clock(1000, tmp_path / "a.json", results), results, "cpu", **SMALL)
    assert json.loads((tmp_path / "a.json").read_text()) == results
    assert "failed" not in results
    assert list(results["models"]["mlp"]) == ["eager, contiguous", "eager, contiguous, TF32"]
    assert list(results["models"]["cnn3"]) == [
        "eager, contiguous", "eager, channels_last", "eager, contiguous, TF32", "eager, channels_last, TF32",
    ]  # fmt: skip
    assert all(row["ms"] > 0 for rows in results["models"].values() for row in rows.values())
    theirs = {"ms": 6.0, "MB": 20.0, "kernels": 30}
    ours = {"models": {"mlp": {"graph ms": 2.0, "MB": 5.0, "launches": 9, "tf32": {"graph ms": 1.5}}}}
    rows = {"eager, contiguous": theirs, "eager, contiguous, TF32": theirs}
    columns = bench.table({"models": {"mlp": rows, "cnn3": rows}}, ours).columns
    assert [column._cells[:3] for column in columns[2:]] == [
        ["6", "6", "6"], ["20", "20", "20"], ["30", "30", "30"], ["2", "1.5", "-"], ["5", "5", "-"], ["9", "9", "-"],
        ["3", "4", "-"],
    ]  # fmt: skip


def test_compiled_passes_take_the_layout_that_was_faster(bench: Any) -> None:
    times = {"eager, contiguous": 3.0, "eager, channels_last": 2.0, "eager, contiguous, TF32": 1.0}
    found = {label: {"ms": ms} for label, ms in times.items()}
    assert [str(s) for s in bench.settings("vgg16", "max-autotune", found)] == [
        "max-autotune, channels_last", "max-autotune, contiguous, TF32",
    ]  # fmt: skip
    assert [s.layout for s in bench.settings("mlp", "reduce-overhead", {})] == ["contiguous"] * 2


def test_without_a_gpu_there_is_one_line(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    done = run_script("bench_gpu_torch.py")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith(" finds no NVIDIA GPU here\n")
    assert done.stderr.count("\n") == 1
