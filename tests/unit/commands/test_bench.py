"""The benchmark of training steps: what it says of the machine, the history it keeps, and two checkouts compared."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.scripts import SCRIPTS, run_script

ROOT = SCRIPTS.parent


@pytest.fixture
def history(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return import_module("bench_history")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return import_module("bench_machine")


def test_the_peak_is_that_of_all_workers(machine: Any) -> None:
    assert machine.sgemm_peak(2, {64: 2}, repeats=1) > 0


def test_a_row_compares_with_the_faster_layout_and_with_the_peak(history: Any) -> None:
    times = {"compiled": [4.0, 5.0, 7.0], "torch NCHW": [20.0, 20.0], "torch channels_last": [10.0, 10.0]}
    row = history.row(times, gflop=1.5, peak=600.0)
    assert row["against torch"] == 2
    assert row["GFLOP/s"] == 300
    assert row["of peak"] == 0.5
    assert row["ms"]["compiled"] == [4.5, 5, 6]
    assert history.row({"compiled": [5.0]}, 1.5, 600.0)["against torch"] is None


def test_runs_stand_side_by_side_by_processor(history: Any, machine: Any, tmp_path: Path) -> None:
    def run(processor: str, ms: float, *labels: str) -> Path:
        row = history.row({"compiled": [ms], "torch NCHW": [10.0]}, 1.0, 400.0)
        found = history.record(machine.Machine(processor, 2, "openblas 1 Fast", 400.0), dict.fromkeys(labels, row))
        return history.append(found, tmp_path)

    first = run("Alpha 1", 9.0, "mlp")
    assert run("Alpha 1", 5.0, "mlp") == first
    assert first.name == "alpha-1-fast.json"
    assert len(json.loads(first.read_text())) == 2
    assert run("Beta", 4.0, "mlp", "cnn3") != first
    page = tmp_path / "page.md"
    page.write_text(f"before\n{history.BEGIN}old\n{history.END}after\n")
    history.write_page(page, tmp_path)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| mlp | 2.00 (5) | 2.50 (4) |" in text
    assert "| cnn3 | - | 2.50 (4) |" in text
    assert "| mlp | 200 (0.50) | 250 (0.62) |" in text
    assert all(f"numpy {np.__version__}" in line for line in text.splitlines() if "commit" in line)


def test_the_page_has_the_tables_of_the_history(history: Any, tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    shutil.copy(history.PAGE, page)
    history.write_page(page)
    assert page.read_text() == history.PAGE.read_text(), "python scripts/bench.py --record writes the tables"


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPTS / "bench.py"), "--models", "mlp", "--batch-norm", "no", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


def test_two_checkouts_are_compared_in_turn_each_with_its_own_packages(tmp_path: Path) -> None:
    for source in ROOT.glob("packages/*/src"):
        (tmp_path / "packages" / source.parent.name).mkdir(parents=True)
        os.symlink(source, tmp_path / "packages" / source.parent.name / "src")
    compare = ["--only", "ours", "--repeats", "2", "--workers", "threads", "--against", str(tmp_path)]
    done = bench(*compare)
    assert done.returncode == 0, done.stderr
    assert "this checkout ms" in done.stdout
    times = np.array(json.loads((ROOT / "outputs/bench/against.json").read_text())["mlp"])
    assert times.shape == (2, 2)
    assert (times > 0).all()
    own = tmp_path / "packages/nl-models/src"
    own.unlink()
    (own / "nl_models").mkdir(parents=True)
    (own / "nl_models/__init__.py").write_text("raise SystemExit('the other checkout')")
    done = bench(*compare)
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == "the other checkout"
    done = bench("--only", "ours", "--against", str(tmp_path / "packages"))
    assert done.stderr.strip().endswith("is no checkout of this project: it has no packages/*/src")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--against", "."], "add --only ours"),
        (["--record", "--only", "ours"], "beside PyTorch (pip install torch)"),
        (["--record", "--models", "mlp"], "beside PyTorch (pip install torch)"),
    ],
)
def test_incomplete_comparisons_are_refused(options: list[str], reason: str) -> None:
    done = run_script("bench.py", *options)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith(reason)
