"""What went wrong in a sweep's jobs, told to the process that started the sweep."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from nl_training.paths import ROOT


@dataclass(frozen=True)
class Failures:
    """Lines in a file, since jobs may run in processes of their own; it is there once something has failed.

    Attributes:
        path: the file.
    """

    path: Path

    @classmethod
    def new(cls) -> Failures:
        """An empty one, in the repository's output folder."""
        return cls(ROOT / "outputs" / f"failures-{uuid4()}.txt")

    def __enter__(self) -> Failures:
        return self

    def __exit__(self, *error: object) -> None:
        self.take()  # of a sweep that was stopped: the file must not stay

    def add(self, text: str, job: int | None) -> None:
        """Note what the user can mend, and tell it at once where other jobs of a sweep still go on."""
        if job is not None:
            text = f"job {job}: {text}"
            print(f"error: {text}", file=sys.stderr, flush=True)
        self.path.parent.mkdir(exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")

    def take(self) -> list[str]:
        """All that was noted; the file is gone then."""
        if not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8").splitlines()
        self.path.unlink()
        return lines
