"""What the trainer expects of a tracker: a context around the training that records metrics and texts."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType

from nl_training.tracking.scores import Scores
from nl_training.training.callbacks import Callback, EpochReport, Result, StepReport


class Tracker(Callback):
    """Base of trackers: every one records the same metrics under the same names.

    A tracker defines `add` and `write`, and opens and closes its destination as a context.
    """

    reads_network = False

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the destination; `error` ended the training."""

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record metrics of a step."""
        raise NotImplementedError

    def write(self, name: str, text: str) -> None:
        """Record a text file."""
        raise NotImplementedError

    def hint(self) -> str:
        """Return where the records are and how to view them."""
        raise NotImplementedError

    def on_step(self, report: StepReport) -> None:
        """Record the step's metrics."""
        values = {"train/loss": report.loss, "train/acc": report.accuracy, "lr": report.lr}
        if report.grad_norm is not None:
            values["grad_norm"] = report.grad_norm
        self.add(report.step, values)

    def on_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record metrics of another callback."""
        self.add(step, metrics)

    def on_epoch(self, report: EpochReport) -> None:
        """Record the epoch's metrics and the best so far."""
        values = {**report.metrics, "epoch": float(report.epoch)}
        if report.best:
            best = {key: report.metrics[key] for key in ("val/acc", "test/acc") if key in report.metrics}
            values |= {f"best/{key.replace('/', '_')}": value for key, value in best.items()}
            values["best/epoch"] = float(report.epoch)
        self.add(report.step, values)

    def on_result(self, result: Result) -> None:
        """Record the final metrics."""
        values = {"final/test_acc": result.test_accuracy, "final/test_loss": result.test_loss}
        values["seconds"] = result.seconds
        if result.steps_to_target is not None and result.seconds_to_target is not None:
            values |= {"steps_to_target": result.steps_to_target, "seconds_to_target": result.seconds_to_target}
        if result.average is not None:
            values["final/test_loss_ema"], values["final/test_acc_ema"] = result.average
        self.add(result.steps, values)

    def log_scores(self, step: int, scores: Scores) -> None:
        """Record the test scores of the best weights, in total and of each class."""
        self.add(step, {f"final/{name}": value for name, value in scores.metrics.items()})
        self.write("classes.csv", scores.csv())
