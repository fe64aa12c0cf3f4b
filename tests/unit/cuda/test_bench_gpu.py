"""The script for the first minutes on a GPU runs through on the stand-in, and leaves out what there is no time for."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support.fake_card import FakeCardBackend
from support.kernels.executor import COMPILER, NO_COMPILER
from support.scripts import SCRIPTS

from nl_nodes import Device
from nl_nodes.device import backends

pytestmark = pytest.mark.skipif(COMPILER is None, reason=NO_COMPILER)

SMALL = {"width": 10, "classes": 4}
SIZES = {"size": 2**12, "side": 16}


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(backends(), "fake", FakeCardBackend())
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return import_module("bench_gpu")


def test_everything_is_measured_and_written_down(bench: Any, tmp_path: Path) -> None:
    results: dict[str, Any] = {}
    clock = bench.Clock(1000, tmp_path / "gpu.json", results)
    bench.measure(Device("fake", dtype="float64"), ["mlp"], 4, clock, results, SIZES, **SMALL)
    assert json.loads((tmp_path / "gpu.json").read_text()) == results
    assert "failed" not in results
    assert "left out" not in results
    row = results["models"]["mlp"]
    assert row["loss"] < 1e-12
    assert row["gradient"] < 1e-12
    assert row["replays equal"]
    assert row["captured"]
    assert row["graph ms"] > 0
    assert row["tf32"]["graph ms"] > 0
    assert row["bound ms"] > 0
    assert row["TF32 bound ms"] > 0
    assert row["MB"] > bench.WORKSPACE / 1e6
    assert min(results["speed"].values()) > 0
    assert results["us an empty kernel"].keys() == {"100", "1000"}
    assert {"us", "call"} < set(row["slowest"][0])
    assert 0 < len(row["algorithms"]) <= bench.SLOWEST
    assert all(product["offers"] == 2 for product in row["algorithms"])
    table = bench.table(results)
    assert table.row_count == 1
    assert "None" not in [cell for column in table.columns for cell in column.cells]


def test_kernels_are_prepared_that_a_gpu_will_look_for(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cupy", reason="CuPy is not installed: pip install './packages/nl-nodes[cuda12]'")
    prepared: set[str] = set()
    monkeypatch.setattr(bench, "machine_codes", lambda nvrtc, sources, arch: prepared.update(s.text for s in sources))
    monkeypatch.setitem(bench.FORMS, "mlp", ("mlp", True))
    lines: list[str] = []
    bench.prepare("sm_90", ["mlp"], 4, lines.append)
    assert len(lines) == 1
    plan = bench.network("mlp", Device("fake")).plan(True, 4)
    assert prepared == {args[0].text for name, args in plan.calls[0] if name == "kernel"}


def test_what_fails_or_has_no_time_is_named_and_the_rest_goes_on(bench: Any, tmp_path: Path) -> None:
    results: dict[str, Any] = {}
    clock = bench.Clock(30, tmp_path / "gpu.json", results)
    bench.measure(Device("fake", dtype="float64"), ["mlp"], 4, clock, results, {"size": 0, "side": 16}, **SMALL)
    assert results["failed"].keys() == {"speed of the GPU"}
    assert results["left out"] == ["mlp"]
    assert "us an empty kernel" in results
    with bench.Clock(30, tmp_path / "gpu.json", results).section("fails", 1) as enough:
        assert enough
        raise RuntimeError("a message\nof two lines")
    assert json.loads((tmp_path / "gpu.json").read_text())["failed"]["fails"] == "RuntimeError: a message"
