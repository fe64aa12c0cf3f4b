"""Progress display of a training: a live bar, or plain lines without a terminal."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from time import perf_counter

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from nl_training.training.callbacks import Callback, EpochReport, Result, StepReport, TrainingState

# A redraw takes milliseconds.
REDRAW_SECONDS = 0.1
LINE_SECONDS = 10.0


class ProgressBar(Callback):
    """A live bar with epoch, loss, accuracy, images per second and time left; plain lines without a terminal.

    Args:
        console: where to draw, standard output by default.
        lasting: whether epochs are printed as lines, and the full bar stays; if not, nothing is left of it.
    """

    reads_network = False

    def __init__(self, console: Console | None = None, lasting: bool = True) -> None:
        self.console = console or Console()
        self.lasting = lasting
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._shown = self._begun = perf_counter()
        self._images = 0
        self._first = self._total = 0

    def on_start(self, trainer: TrainingState) -> None:
        """Start the bar."""
        self._begun = self._shown = perf_counter()
        self._first, self._total = trainer.step, trainer.total_steps
        if self.console.is_interactive:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                TextColumn("{task.fields[state]}"),
                TimeRemainingColumn(),
                console=self.console,
                auto_refresh=False,
                expand=True,
                transient=not self.lasting,
            )
            self._task = self._bar.add_task("epoch 1", total=self._total, completed=self._first, state="compiling")
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

    def on_evaluate(self, split: str, images: int) -> None:
        """Show which images are evaluated."""
        if self._bar is not None:
            self._bar.update(self._task, state=f"evaluating {images:,} {split} images")
            self._bar.refresh()

    def on_epoch(self, report: EpochReport) -> None:
        """Print a line for the epoch."""
        parts = [f"epoch {report.epoch:>3}  step {report.step:>6}  {report.seconds:7.1f} s"]
        names = {"train/epoch_loss": "loss", "train/epoch_acc": "train", "val/acc": "validation", "test/acc": "test"}
        parts += [f"{name} {report.metrics[key]:.4f}" for key, name in names.items() if key in report.metrics]
        self._line("  ".join(parts) + ("  best" if report.best else ""))

    def on_end(self, trainer: TrainingState, result: Result) -> None:
        """Fill the bar, also where the target accuracy ended the training early, and end it."""
        if self._bar is not None:
            steps, state = result.steps, f"{result.steps:,} steps in {result.seconds:.1f} s"
            last = f"epoch {result.epochs}"
            self._bar.update(self._task, total=steps, completed=steps, description=last, state=state)
            self._bar.refresh()
        self.close()

    def close(self) -> None:
        """End the bar; may be called repeatedly."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _line(self, text: str) -> None:
        if self.lasting:
            self.console.print(text, highlight=False, soft_wrap=True)


def activity(text: str) -> AbstractContextManager[object]:
    """Return a context that shows on a terminal what is being done, where no bar does."""
    console = Console()
    return console.status(f"{text} ...", spinner="line") if console.is_interactive else nullcontext()


class RunsBar:
    """A bar over the runs of a sweep or search; without a terminal, a line before and one after.

    Args:
        what: what is made for each run.
        total: the number of runs; nothing is shown for none.
        note: printed with the line before.
        console: where to draw, standard output by default.
    """

    def __init__(self, what: str, total: int, note: str = "", console: Console | None = None) -> None:
        self._console = console or Console()
        columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total} runs")]
        shown = total > 0 and self._console.is_interactive
        self._bar = Progress(*columns, console=self._console, transient=True, disable=not shown)
        self._what, self._total, self._note = what, total, note
        self._begun = perf_counter()

    def __enter__(self) -> RunsBar:
        if self._total:
            self._console.print(f"\n{self._what} of {self._total} runs ...{self._note}", highlight=False)
        self._task = self._bar.add_task(self._what, total=self._total)
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()
        if self._total:
            self._console.print(f"made in {perf_counter() - self._begun:.1f} s", highlight=False)

    def advance(self) -> None:
        """Show that one more run is done."""
        self._bar.advance(self._task)


class CertificateBar:
    """A bar for the verification of gradients, shown only on a terminal."""

    def __init__(self, console: Console | None = None) -> None:
        console = console or Console()
        columns = [TextColumn("verifying {task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}")]
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_interactive)
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
