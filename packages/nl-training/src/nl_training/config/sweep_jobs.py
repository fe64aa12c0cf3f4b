"""The jobs of a sweep on the terminal: a header for each, and a line with its result."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from time import perf_counter
from typing import Protocol

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from nl_training.config.quoting import read_override


class Summarized(Protocol):
    """A result with a summary in one line."""

    @property
    def summary(self) -> str:
        """The summary."""


def swept(overrides: Iterable[str]) -> list[str]:
    """Return the overrides with several values.

    >>> swept(["model=mlp,cnn3", "data=digits", "seed=range(3)", "tracking.tags={a: 1, b: 2}"])
    ['model=mlp,cnn3', 'seed=range(3)']
    """
    return [text for text in overrides if (read := read_override(text)) is not None and read.is_sweep_override()]


def key_of(override: str) -> str:
    """Return the key or group that an override sets, without the + of an added group."""
    return override.partition("=")[0].lstrip("+")


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
    def of(cls, overrides: Sequence[str], counts: Sequence[int]) -> SweepJobs:
        """Return the jobs of overrides with these numbers of values."""
        return cls(prod(counts), tuple(key_of(text) for text in swept(overrides)))

    def begin(self) -> JobLines:
        """Print the current job's header, unless jobs run side by side; their progress bars are turned off."""
        chosen = ((key_of(text), text.partition("=")[2]) for text in HydraConfig.get().overrides.task)
        words = [value if _is_group(key) else f"{key}={value}" for key, value in chosen if key in self.keys]
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
