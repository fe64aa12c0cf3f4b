"""Trackers that write metrics to files, as CSV or for TensorBoard: alone, or beside MLflow."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from nl_nodes import UserError
from nl_training.paths import output_folder
from nl_training.tracking.scores import Scores
from nl_training.tracking.tracker import Tracker
from nl_training.training.callbacks import EpochReport, Result, TrainingState

if TYPE_CHECKING:
    from nl_training.config.schema import TrackingConfig

HEADER = ("step", "metric", "value")


class FileTracker(Tracker):
    """Base of trackers that write to a folder, with the config as `config.yaml`.

    Args:
        folder: an existing folder.
        text: the config as YAML.
    """

    def __init__(self, folder: Path, text: str) -> None:
        self.folder = folder
        self.write("config.yaml", text)

    def write(self, name: str, text: str) -> None:
        """Write a text file to the folder."""
        (self.folder / name).write_text(text, encoding="utf-8")

    def on_end(self, trainer: TrainingState, result: Result) -> None:
        """Write the test scores of the best weights."""
        self.log_scores(result.steps, Scores.of_best(trainer))


class CSVTracker(FileTracker):
    """Writes a row (step, metric, value) for each value of a metric to `metrics.csv`."""

    def __enter__(self) -> CSVTracker:
        self._file = (self.folder / "metrics.csv").open("a", newline="", encoding="utf-8")
        self._rows = csv.writer(self._file, lineterminator="\n")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def on_start(self, trainer: TrainingState) -> None:
        """Begin the file, unless a checkpoint was restored."""
        if trainer.step == 0:
            self._file.truncate(0)
            self._rows.writerow(HEADER)

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write a row for each metric."""
        self._rows.writerows((step, name, float(value)) for name, value in metrics.items())

    def on_epoch(self, report: EpochReport) -> None:
        """Write the epoch's metrics to the disk."""
        super().on_epoch(report)
        self._file.flush()

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the size of the file."""
        self._file.flush()
        return {}, {"bytes": self._file.tell()}

    def load_state(self, arrays: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """Remove the rows of later steps, which are taken again."""
        self._file.truncate(min(int(facts["bytes"]), self._file.tell()))

    def hint(self) -> str:
        """Return where the file is."""
        return f"metrics in {self.folder / 'metrics.csv'}"


class TensorBoardTracker(FileTracker):
    """Writes scalars to an event file of TensorBoard."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if hasattr(self, "_writer"):
            self._writer.close()

    def on_start(self, trainer: TrainingState) -> None:
        """Open an event file; TensorBoard hides what older ones have of steps that are taken again."""
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(self.folder), purge_step=trainer.step + 1)

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write a scalar for each metric."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def on_epoch(self, report: EpochReport) -> None:
        """Write the epoch's metrics to the disk."""
        super().on_epoch(report)
        self._writer.flush()

    def hint(self) -> str:
        """Return where the file is, and the command that shows it."""
        return f"metrics in {self.folder}; view them with: tensorboard --logdir {self.folder.parent}"


KINDS = {"csv": CSVTracker, "tensorboard": TensorBoardTracker}


def file_tracker(tracking: TrackingConfig, text: str, run_id: str) -> FileTracker | None:
    """Return the tracker of `tracking.files`, in a folder named by the run's ID or, without one, by the time.

    Raises:
        UserError: if the output folder is not writable.
    """
    if tracking.files is None:
        return None
    name = run_id or datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")
    return KINDS[tracking.files](output_folder("outputs", tracking.files, name), text)


def check_package(tracking: TrackingConfig) -> None:
    """Raise `UserError` if the package that `tracking.files` needs is missing."""
    if tracking.files == "tensorboard":
        try:
            import tensorboardX  # noqa: F401
        except ImportError:
            install = "python -m pip install -c constraints.txt tensorboardX"
            raise UserError(f"tracking.files=tensorboard needs the package tensorboardX: {install}") from None
