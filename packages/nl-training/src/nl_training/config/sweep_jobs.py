"""The jobs of a sweep on the terminal: a header for each, and a line with its result."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf


class Summarized(Protocol):
    """A result with a summary in one line."""

    @property
    def summary(self) -> str:
        """The summary."""


def job_number() -> int | None:
    """Return the number of the current job of a sweep, from 1; None in a single run."""
    job = HydraConfig.get().job
    return None if OmegaConf.is_missing(job, "num") else int(job.num) + 1


def in_sweep() -> bool:
    """Return whether this is a job of a sweep."""
    return HydraConfig.initialized() and job_number() is not None


def side_by_side() -> bool:
    """Return whether jobs of this sweep may run at the same time and share a terminal."""
    return not str(HydraConfig.get().launcher["_target_"]).endswith(".BasicLauncher")


@dataclass(frozen=True)
class SweepJobs:
    """The jobs of a sweep.

    Attributes:
        total: their number.
        keys: the keys and groups in which they differ.
    """

    total: int
    keys: tuple[str, ...]

    @classmethod
    def of(cls, overrides: Sequence[Override], counts: Sequence[int]) -> SweepJobs:
        """Return the jobs of overrides with these numbers of values."""
        total = 1
        for count in counts:
            total *= count
        swept = (o.key_or_group for o, count in zip(overrides, counts, strict=True) if count > 1)
        return cls(total, tuple(swept))

    def begin(self) -> JobLines:
        """Print the current job's header, unless jobs run side by side; their progress bars are turned off."""
        chosen = (text.partition("=") for text in HydraConfig.get().overrides.task)
        words = [value if _is_group(key) else f"{key}={value}" for key, _, value in chosen if key in self.keys]
        title = " ".join([f"job {job_number()} of {self.total}:", *words])
        if side_by_side():
            os.environ["TTY_INTERACTIVE"] = "0"  # of Rich, which draws the bars
            return JobLines(f"{title}:")
        print(f"\n{title}", flush=True)
        return JobLines(" ")


class JobLines:
    """The output of one job, whose line of the result starts with `prefix`."""

    def __init__(self, prefix: str) -> None:
        self._prefix, self._begun = prefix, perf_counter()

    def end(self, result: Summarized | None) -> None:
        """Print the job's result and its whole time; nothing for a job without a result."""
        if result is not None:
            print(f"{self._prefix} {result.summary}; job {perf_counter() - self._begun:.1f} s", flush=True)


def _is_group(key: str) -> bool:
    return key in HydraConfig.get().runtime.choices
