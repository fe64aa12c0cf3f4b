"""Results over several seeds: mean and spread of each setting, and paired differences between settings."""

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

IGNORED = ("seed", *jobs.IGNORED)
VALIDATION, TEST = "best/val_acc", "final/test_acc"


@dataclass(frozen=True)
class Setting:
    """The runs of a sweep that differ only in their seed.

    Attributes:
        name: the run's name without its seed, and the values in which others of that name differ.
        validation: validation accuracy by seed, by whose mean settings are ordered.
        test: test accuracy by seed.
    """

    name: str
    validation: Mapping[str, float]
    test: Mapping[str, float]

    @property
    def mean(self) -> float:
        """The mean test accuracy."""
        return fmean(self.test.values())

    @property
    def spread(self) -> float:
        """The sample standard deviation of the test accuracy; 0 for a single seed."""
        return stdev(self.test.values()) if len(self.test) > 1 else 0.0

    def difference(self, best: Setting) -> tuple[float, float, int]:
        """Return test accuracy minus the best setting's on the same seeds: mean, standard error, number of pairs."""
        pairs = [self.test[seed] - best.test[seed] for seed in self.test if seed in best.test]
        error = stdev(pairs) / sqrt(len(pairs)) if len(pairs) > 1 else 0.0
        return (fmean(pairs) if pairs else 0.0), error, len(pairs)


def settings(runs: Sequence[Run]) -> list[Setting]:
    """Return the settings of a sweep's finished runs, the best by mean validation accuracy first.

    The list is empty if no setting has runs with two seeds.
    """
    groups: dict[tuple[tuple[str, str], ...], dict[str, Run]] = {}
    for run in runs:
        if run.info.status == "FINISHED" and {VALIDATION, TEST} <= run.data.metrics.keys():
            setting = tuple(sorted((k, v) for k, v in run.data.params.items() if k.partition(".")[0] not in IGNORED))
            groups.setdefault(setting, {})[run.data.params["seed"]] = run
    if not any(len(seeds) > 1 for seeds in groups.values()):
        return []
    names = [_name(next(iter(seeds.values()))) for seeds in groups.values()]
    result = []
    for name, (setting, seeds) in zip(names, groups.items(), strict=True):
        namesakes = [pair for other, pairs in zip(names, groups, strict=True) if other == name for pair in pairs]
        results = ({seed: run.data.metrics[key] for seed, run in seeds.items()} for key in (VALIDATION, TEST))
        result.append(Setting(" ".join([name, *_differing(setting, set(namesakes))]), *results))
    return sorted(result, key=lambda setting: -fmean(setting.validation.values()))


def table(settings: Sequence[Setting]) -> dict[str, list[str | float | int]]:
    """Return the settings as columns, each compared with the first."""
    differences = [setting.difference(settings[0]) for setting in settings]
    return {
        "setting": [setting.name for setting in settings],
        "seeds": [len(setting.test) for setting in settings],
        "validation accuracy": [fmean(setting.validation.values()) for setting in settings],
        "test accuracy": [setting.mean for setting in settings],
        "spread": [setting.spread for setting in settings],
        "paired difference": [mean for mean, _, _ in differences],
        "its standard error": [error for _, error, _ in differences],
        "pairs": [pairs for _, _, pairs in differences],
    }


def lines(settings: Sequence[Setting]) -> list[str]:
    """Return the settings as lines of text, each compared with the first."""
    text = [f"seeds  {len(settings[0].test)} of the best setting; mean ± standard deviation of the test accuracy"]
    if len(settings) > 1:
        text.append("       paired: mean difference from the best over the seeds of both ± standard error (pairs)")
    for setting in settings:
        mean, error, pairs = setting.difference(settings[0])
        paired = "" if setting is settings[0] else f"   paired {_with_spread(mean, error, pairs, '+.4f')} ({pairs})"
        text.append(f"       {_with_spread(setting.mean, setting.spread, len(setting.test))}  {setting.name}{paired}")
    return text


def _with_spread(mean: float, spread: float, count: int, form: str = ".4f") -> str:
    """Return a mean with its spread, which a single value has none of."""
    return f"{mean:{form}}{f' ± {spread:.4f}' if count > 1 else '         '}"


def _name(run: Run) -> str:
    """Return a run's name without its seed; that of model and optimizer if nothing is left."""
    words = [word for word in str(run.info.run_name).split(" ") if not word.startswith("seed=")]
    return " ".join(words) or f"{run.data.params['model.name']} {run.data.params['optimizer.name']}"


def _differing(setting: Sequence[tuple[str, str]], known: set[tuple[str, str]]) -> list[str]:
    """Return the `key=value` pairs of a setting whose key has several values among the known pairs."""
    values = Counter(key for key, _ in known)
    return [f"{key}={value}" for key, value in setting if values[key] > 1]
