"""The terminal output of a training."""

import io
import re
from time import perf_counter
from types import SimpleNamespace

import pytest
from rich.console import Console

from nl_training.training import progress_bar
from nl_training.training.callbacks import EpochReport, StepReport
from nl_training.training.progress_bar import ProgressBar


def show(terminal: bool, steps: int = 500, width: int = 120, lasting: bool = True) -> str:
    """Return the output of a training of two epochs."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, force_interactive=terminal, width=width, color_system=None)
    bar = ProgressBar(console, lasting)
    bar.on_start(SimpleNamespace(step=0, total_steps=steps))
    for step in range(1, steps + 1):
        epoch = 1 + 2 * step // (steps + 1)
        bar.on_step(StepReport(step, epoch, 2.0 / step, 0.75, 1e-3, 128, 0.001))
        if step in (steps // 2, steps):
            bar.on_evaluate("validation", 400)
            metrics = {"train/epoch_loss": 0.5, "train/epoch_acc": 0.8, "test/loss": 0.4, "test/acc": 0.91}
            bar.on_epoch(EpochReport(epoch, step, metrics, best=epoch == 1, seconds=1.0))
    bar.on_end(SimpleNamespace(), SimpleNamespace(steps=steps, epochs=2, seconds=2.0))
    return file.getvalue()


@pytest.fixture
def always(monkeypatch):
    monkeypatch.setattr(progress_bar, "REDRAW_SECONDS", 0.0)
    monkeypatch.setattr(progress_bar, "LINE_SECONDS", 0.0)


def test_without_a_terminal_one_line_per_epoch_is_printed():
    lines = show(terminal=False).splitlines()
    assert len(lines) == 2
    assert "epoch   1" in lines[0]
    assert "test 0.9100" in lines[0]
    assert "best" in lines[0]
    assert "best" not in lines[1]
    assert "\x1b" not in "".join(lines)


@pytest.mark.usefixtures("always")
def test_long_epoch_prints_intermediate_lines():
    line = show(terminal=False, steps=4).splitlines()[0]
    for part in ("step 1/4", "epoch 1", "loss 2.0000", "acc 0.750", "images/s", "s left"):
        assert part in line


@pytest.mark.usefixtures("always")
def test_the_live_bar_shows_loss_accuracy_speed_and_time_left():
    text = show(terminal=True, steps=4)
    for part in ("epoch 1", "epoch 2", "loss 0.5000", "acc 0.750", "images/s", "0:00:00", "test 0.9100"):
        assert part in text


def drawn(text: str) -> list[str]:
    """Return what a terminal was given, line by line, without control sequences."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "\n").splitlines()


def test_the_bar_ends_full_and_fits_80_columns():
    bars = [line.rstrip() for line in drawn(show(terminal=True, steps=20_000, width=80)) if line.startswith("epoch")]
    bars = [line for line in bars if "  step " not in line]
    assert max(map(len, bars)) <= 80
    assert "compiling" in bars[0]
    assert any("evaluating 400 validation images" in line for line in bars)
    assert re.fullmatch("epoch 2 \u2501+ 20,000 steps in 2.0 s 0:00:00", bars[-1])  # no gap: the bar is full


@pytest.mark.parametrize("variables", [{"TTY_INTERACTIVE": "0"}, {"TERM": "dumb"}], ids=repr)
def test_no_bar_where_lines_cannot_be_redrawn(variables, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    bar = ProgressBar(Console(file=io.StringIO(), force_terminal=True))
    bar.on_start(SimpleNamespace(step=0, total_steps=3))
    assert bar.console.file.getvalue() == ""


@pytest.mark.usefixtures("always")
def test_a_job_of_a_sweep_prints_no_epochs():
    assert show(terminal=False, lasting=False) == ""
    assert not any("test 0.9100" in line for line in drawn(show(terminal=True, lasting=False)))


def test_closing_twice_restores_the_terminal():
    file = io.StringIO()
    bar = ProgressBar(Console(file=file, force_terminal=True, width=120))
    bar.on_start(SimpleNamespace(step=0, total_steps=3))
    bar.close()
    bar.close()
    assert file.getvalue().count("\x1b[?25l") == file.getvalue().count("\x1b[?25h") == 1


@pytest.mark.parametrize("terminal", [True, False])
def test_a_step_costs_almost_nothing(terminal):
    show(terminal, steps=10)
    started = perf_counter()
    show(terminal, steps=20_000)
    assert (perf_counter() - started) / 20_000 < 50e-6
