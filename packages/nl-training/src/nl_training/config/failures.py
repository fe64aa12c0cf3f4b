"""Folders for Hydra's output, and the errors of jobs, collected for the process that started them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

from nl_training.config.quoting import quoted
from nl_training.paths import output_folder


@dataclass(frozen=True)
class Failures:
    """Error messages of jobs, kept in a file because jobs may run in other processes.

    Attributes:
        path: the file; it exists once a job has failed.
    """

    path: Path

    def add(self, text: str, job: int | None) -> None:
        """Record a user error; in a sweep, also print it at once, since other jobs may still run."""
        if job is not None:
            text = f"job {job}: {text}"
            print(f"error: {text}", file=sys.stderr, flush=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")

    def take(self) -> list[str]:
        """Return all recorded errors and delete the file."""
        if not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8").splitlines()
        self.path.unlink()
        return lines


@contextmanager
def permanent_folder() -> Iterator[tuple[Failures, list[str]]]:
    """Let Hydra write to its configured folders.

    Yields:
        The jobs' failures, and the overrides that direct Hydra's output: none.

    Raises:
        UserError: if the output folder is not writable.
    """
    failures = Failures(output_folder("outputs") / f"failures-{uuid4()}.txt")
    try:
        yield failures, []
    finally:
        failures.take()  # deletes the file of an interrupted sweep


@contextmanager
def temporary_folder() -> Iterator[tuple[Failures, list[str]]]:
    """Let Hydra write to a temporary folder, for jobs that log nothing; yields as `permanent_folder` does."""
    with TemporaryDirectory() as name:
        folder = quoted(name)
        yield Failures(Path(name) / "failures.txt"), [f"hydra.run.dir={folder}", f"hydra.sweep.dir={folder}"]
