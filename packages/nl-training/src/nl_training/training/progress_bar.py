"""Progress display of a training: a live bar, or plain lines without a terminal."""

from __future__ import annotations

from time import perf_counter

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from nl_training.training.callbacks import Callback, EpochReport, Result, StepReport, TrainingState

# A redraw takes milliseconds.
REDRAW_SECONDS = 0.1
LINE_SECONDS = 10.0


class ProgressBar(Callback):
    """A live bar with epoch, loss, accuracy, images per second and time left; plain lines without a terminal."""

    reads_network = False

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._shown = self._begun = perf_counter()
        self._images = 0
        self._first = self._total = 0

    def on_start(self, trainer: TrainingState) -> None:
        """Start the bar."""
        self._begun = self._shown = perf_counter()
        self._first, self._total = trainer.step, trainer.total_steps
        if self.console.is_terminal:
            columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}")]
            self._bar = Progress(*columns, TimeRemainingColumn(), console=self.console, auto_refresh=False)
            self._task = self._bar.add_task("epoch 1", total=self._total, state="")
            self._bar.start()

    def on_step(self, report: StepReport) -> None:
        """Redraw the bar if the interval has passed."""
        self._images += report.images
        now = perf_counter()
        if now - self._shown < (LINE_SECONDS if self._bar is None else REDRAW_SECONDS):
            return
        self._shown = now
        speed = self._images / (now - self._begun)
        state = f"loss {report.loss:.4f}  acc {report.accuracy:.3f}  {speed:,.0f} images/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=report.step, description=f"epoch {report.epoch}", state=state)
            self._bar.refresh()
            return
        left = (now - self._begun) / (report.step - self._first) * (self._total - report.step)
        self._line(f"step {report.step}/{self._total}  epoch {report.epoch}  {state}  {left:,.0f} s left")

    def on_epoch(self, report: EpochReport) -> None:
        """Print a line for the epoch."""
        parts = [f"epoch {report.epoch:>3}  step {report.step:>6}  {report.seconds:7.1f} s"]
        names = {"train/epoch_loss": "loss", "train/epoch_acc": "train", "val/acc": "validation", "test/acc": "test"}
        parts += [f"{name} {report.metrics[key]:.4f}" for key, name in names.items() if key in report.metrics]
        self._line("  ".join(parts) + ("  best" if report.best else ""))

    def on_end(self, trainer: TrainingState, result: Result) -> None:
        """Remove the bar."""
        self.close()

    def close(self) -> None:
        """Remove the bar; may be called repeatedly."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _line(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)


class CertificateBar:
    """A bar for the verification of gradients, shown only on a terminal."""

    def __init__(self, console: Console | None = None) -> None:
        console = console or Console()
        columns = [TextColumn("verifying {task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}")]
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task: TaskID | None = None

    def __enter__(self) -> CertificateBar:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def advance(self, what: str, done: int, total: int) -> None:
        """Show that `done` of `total` tensors or plans are done."""
        if self._task is None:
            self._task = self._bar.add_task("", total=total)
            self._bar.start()
        self._bar.update(self._task, completed=done, total=total, description=what)
