"""Several seeds as one result: mean and spread of each setting, and how settings differ seed by seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from nl_training.tracking import jobs

if TYPE_CHECKING:
    from mlflow.entities import Run

APART = ("seed", *jobs.APART)
CHOICE, SHOWN = "best/val_acc", "final/test_acc"


@dataclass(frozen=True)
class Setting:
    """The runs of a sweep that differ in nothing but their seed.

    Attributes:
        name: what tells it from the sweep's others.
        chosen: validation accuracy by seed, by which settings are ordered.
        shown: test accuracy by seed.
    """

    name: str
    chosen: Mapping[str, float]
    shown: Mapping[str, float]

    @property
    def mean(self) -> float:
        """The mean test accuracy."""
        return fmean(self.shown.values())

    @property
    def spread(self) -> float:
        """The sample standard deviation of the test accuracy, of one seed 0."""
        return stdev(self.shown.values()) if len(self.shown) > 1 else 0.0

    def less(self, best: Setting) -> tuple[float, float, int]:
        """Its test accuracy less the best's on the same seeds: mean, standard error of the mean, number of pairs."""
        pairs = [self.shown[seed] - best.shown[seed] for seed in self.shown if seed in best.shown]
        error = stdev(pairs) / sqrt(len(pairs)) if len(pairs) > 1 else 0.0
        return (fmean(pairs) if pairs else 0.0), error, len(pairs)


def settings(runs: Sequence[Run]) -> list[Setting]:
    """The settings of a sweep's finished runs, the best by mean validation accuracy first.

    None where no setting was run with two seeds: there is nothing to sum up then.
    """
    groups: dict[tuple[tuple[str, str], ...], dict[str, Run]] = {}
    for run in runs:
        if run.info.status == "FINISHED" and {CHOICE, SHOWN} <= run.data.metrics.keys():
            setting = tuple(sorted((k, v) for k, v in run.data.params.items() if k.partition(".")[0] not in APART))
            groups.setdefault(setting, {})[run.data.params["seed"]] = run
    if not any(len(seeds) > 1 for seeds in groups.values()):
        return []
    known = {pair for setting in groups for pair in setting}
    made = [
        Setting(
            " ".join([next(iter(seeds.values())).info.run_name, *_differing(setting, known)]),
            *({seed: run.data.metrics[key] for seed, run in seeds.items()} for key in (CHOICE, SHOWN)),
        )
        for setting, seeds in groups.items()
    ]
    return sorted(made, key=lambda one: -fmean(one.chosen.values()))


def table(found: Sequence[Setting]) -> dict[str, list[str | float | int]]:
    """The settings by column, each compared with the first."""
    differences = [one.less(found[0]) for one in found]
    return {
        "setting": [one.name for one in found],
        "seeds": [len(one.shown) for one in found],
        "validation accuracy": [fmean(one.chosen.values()) for one in found],
        "test accuracy": [one.mean for one in found],
        "spread": [one.spread for one in found],
        "paired difference": [mean for mean, _, _ in differences],
        "its standard error": [error for _, error, _ in differences],
        "pairs": [pairs for _, _, pairs in differences],
    }


def lines(found: Sequence[Setting]) -> list[str]:
    """The same for a terminal."""
    said = [f"seeds  {len(found[0].shown)} of the best setting; mean ± spread of the test accuracy"]
    for one in found:
        mean, error, pairs = one.less(found[0])
        paired = "" if one is found[0] else f"   paired {mean:+.4f} ± {error:.4f} ({pairs})"
        said.append(f"       {one.mean:.4f} ± {one.spread:.4f}  {one.name}{paired}")
    return said


def _differing(setting: Sequence[tuple[str, str]], known: set[tuple[str, str]]) -> list[str]:
    """The keys for which another setting has another value, but for those that the run's name tells."""
    told = ("model.name", "model._target_", "optimizer.lr", "optimizer._target_")
    others = Counter(key for key, _ in known)
    return [f"{key}={value}" for key, value in setting if others[key] > 1 and key not in told]
