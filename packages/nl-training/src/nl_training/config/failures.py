"""Where jobs write: the folder of Hydra's output, and what went wrong in them, for the process that started them."""

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
    """Lines in a file, since jobs may run in processes of their own; it is there once something has failed.

    Attributes:
        path: the file.
    """

    path: Path

    def add(self, text: str, job: int | None) -> None:
        """Note what the user can mend, and tell it at once where other jobs of a sweep still go on."""
        if job is not None:
            text = f"job {job}: {text}"
            print(f"error: {text}", file=sys.stderr, flush=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")

    def take(self) -> list[str]:
        """All that was noted; the file is gone then."""
        if not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8").splitlines()
        self.path.unlink()
        return lines


@contextmanager
def kept_folder() -> Iterator[tuple[Failures, list[str]]]:
    """The output folder, where Hydra keeps what it writes of each job.

    Yields:
        The jobs' failures, and the overrides by which Hydra writes there: none.

    Raises:
        UserError: when the folder cannot be written.
    """
    failures = Failures(output_folder("outputs") / f"failures-{uuid4()}.txt")
    try:
        yield failures, []
    finally:
        failures.take()  # of a sweep that was stopped: the file must not stay


@contextmanager
def passing_folder() -> Iterator[tuple[Failures, list[str]]]:
    """The same with a folder that is taken away again, for jobs that log nothing."""
    with TemporaryDirectory() as name:
        folder = quoted(name)
        yield Failures(Path(name) / "failures.txt"), [f"hydra.run.dir={folder}", f"hydra.sweep.dir={folder}"]
