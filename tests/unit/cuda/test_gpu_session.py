"""The script for a machine with a GPU: its parts, and what it does without one."""

from __future__ import annotations

import json
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from support.scripts import SCRIPTS, run_script

SLEEP = "import time; print('begun', flush=True); time.sleep(600)"


@pytest.fixture
def gpu_session(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return import_module("gpu_session")


def command(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_part_that_fails_or_takes_too_long_stops_no_other(gpu_session: Any, tmp_path: Path) -> None:
    told: list[str] = []
    parts = [
        gpu_session.Part("fails", 60, command("print('why', flush=True); raise SystemExit(3)")),
        gpu_session.Part("is slow", 10, command(SLEEP)),
        gpu_session.Part("needs a program", 60, command(""), "no-such-program"),
        gpu_session.Part("passes", 60, command("print('all right'); print()")),
    ]
    results = gpu_session.session(parts, 1000, tmp_path, told.append)
    assert [line.partition(":")[0] for line in told] == [part.name for part in parts]
    assert [(r.name, r.outcome, r.last) for r in results] == [
        ("fails", "failed", "why"),
        ("is slow", "stopped", "begun"),
        ("needs a program", "left out", "no-such-program is not installed"),
        ("passes", "passed", "all right"),
    ]
    assert [r["outcome"] for r in json.loads((tmp_path / "session.json").read_text())] == [r.outcome for r in results]
    assert (tmp_path / "is_slow.txt").read_text() == "begun\n"


def test_without_time_parts_are_left_out(gpu_session: Any, tmp_path: Path) -> None:
    (result,) = gpu_session.session([gpu_session.Part("a", 60, command("print(1)"))], 1, tmp_path, str)
    assert (result.outcome, result.last) == ("left out", "no time is left")


def test_parts_fit_the_time_and_their_scripts_exist(gpu_session: Any, tmp_path: Path) -> None:
    parts = gpu_session.parts(str(tmp_path))
    assert sum(part.seconds for part in parts if "of" not in part.name.split()) <= gpu_session.SECONDS
    assert len({part.name for part in parts}) == len(parts)
    named = [word for part in parts for word in part.command if word.startswith("scripts/")]
    assert len(named) > 4
    assert all((SCRIPTS.parent / word).is_file() for word in named)
    accuracy = next(part.command for part in parts if part.name == "accuracy")
    assert accuracy[-2:] == ["--data", str(tmp_path)]
    assert "--data" not in [word for part in gpu_session.parts(None) for word in part.command]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["data.root=/no/such/folder"], "data.root=/no/such/folder: give data.root= and the folder of MNIST"),
        (["root=/"], "root=/: give data.root= and the folder of MNIST"),
        (["--parts", "models,fast"], "unknown part 'fast': use models, speed, accuracy"),
    ],
)
def test_wrong_arguments_are_refused(arguments: list[str], told: str) -> None:
    done = run_script("gpu_session.py", *arguments)
    assert done.returncode == 2
    assert told in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "script", ["gpu_session.py", "bench_gpu.py", "gpu_steps.py mlp", "bench_accuracy.py --device gpu --single"]
)
def test_without_a_gpu_there_is_one_line(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    done = run_script(*script.split())
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"device=gpu.*\n", done.stderr)


def test_the_steps_for_a_checker_run_on_any_device() -> None:
    done = run_script("gpu_steps.py", "mlp", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["loss", "loss"]
