"""The search space: config keys with their possible values, in Hydra's sweep syntax."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hydra.core.override_parser.types import IntervalSweep

from nl_nodes import UserError
from nl_training.config.cli import composed, parsed, values_of
from nl_training.config.schema import SearchConfig
from nl_training.config.sweep_jobs import key_of

if TYPE_CHECKING:
    from optuna import Trial

    from nl_training.config.schema import Config

SYNTAX = "write it as interval(LOW,HIGH), tag(log,interval(LOW,HIGH)), int(interval(LOW,HIGH)) or choice(A,B)"


@dataclass(frozen=True)
class Dimension:
    """A searched key: an interval or choices.

    Attributes:
        key: a config key such as `optimizer.lr`, or a group such as `model`.
        low: the interval's lower end; if both ends are integers, so are the values.
        high: the interval's upper end.
        log: whether to sample log-uniformly.
        choices: the values, if it is not an interval.
    """

    key: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[str, ...] = ()

    @property
    def is_integer(self) -> bool:
        """Whether all values are integers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def suggest(self, trial: Trial) -> str:
        """Let a trial choose a value; return it as an override."""
        value: object
        if self.choices:
            value = trial.suggest_categorical(self.key, self.choices)
        elif self.is_integer:
            value = trial.suggest_int(self.key, int(self.low), int(self.high), log=self.log)
        else:
            value = trial.suggest_float(self.key, self.low, self.high, log=self.log)
        return self.override(value)

    def override(self, value: object) -> str:
        """Return the override that sets a value."""
        return f"{self.key}={value}"

    def ends(self) -> list[str]:
        """Return the overrides of all choices, or of both ends of the interval."""
        return [self.override(value) for value in self.choices or (self.low, self.high)]


@dataclass(frozen=True)
class Plan:
    """A search: fixed overrides, search space and options.

    Attributes:
        overrides: the whole command line.
        fixed: the overrides common to all trials.
        space: the searched keys.
        search: the config group `search`.
    """

    overrides: tuple[str, ...]
    fixed: tuple[str, ...]
    space: tuple[Dimension, ...]
    search: SearchConfig


def read(overrides: Sequence[str]) -> Plan:
    """Parse a command line in which some overrides have several values.

    Raises:
        UserError: if the config does not accept an override, a choice or an end of an interval, or a search cannot
            compare such trainings.
    """
    swept = [text for text in overrides if parsed(text).is_sweep_override()]
    own = [text for text in overrides if text.startswith(("search=", "search."))]
    fixed = [text for text in overrides if text not in swept + own]
    if not any(text.startswith("search=") for text in own):
        own = ["search=tpe", *own]
    search = composed([*fixed, *own])[0].search
    assert search is not None  # set by the option above
    space = [dimension(text) for text in swept or search.space]
    given = {key_of(text) for text in fixed}
    if not any(key_of(text) == "search.space" for text in own) and not swept:
        space = [d for d in space if d.key not in given]  # the default leaves out what has a value
    if not space:
        raise UserError(f"nothing to search: give a key, such as optimizer.lr; {SYNTAX}")
    keys = [d.key for d in space]
    if both := sorted(given.intersection(keys)):
        raise UserError(f"{both[0]} has a value and is searched: leave one out")
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise UserError(f"{twice[0]} is searched twice")
    for d in space:
        for end in d.ends():
            _refuse_incomparable(composed([*fixed, end])[0])
    return Plan(tuple(overrides), tuple(fixed), tuple(space), search)


def _refuse_incomparable(config: Config) -> None:
    if not config.tracking.enabled:
        raise UserError("tracking=off: a search stores its trials in MLflow; leave tracking=off out")
    if not config.data.validation:
        raise UserError("data.validation=0.0: a search maximizes validation accuracy; set it above 0")
    if config.trainer.max_seconds is not None:
        raise UserError("trainer.max_seconds: a search compares whole trainings; limit trainer.max_steps instead")


def dimension(text: str) -> Dimension:
    """Parse an override such as `optimizer.lr=tag(log,interval(1e-4,1e-1))`.

    >>> dimension("model.width=int(interval(16,64))")
    Dimension(key='model.width', low=16, high=64, log=False, choices=())
    >>> dimension("optimizer=sgd,adam").choices
    ('sgd', 'adam')
    """
    override = parsed(text)
    key, value = override.key_or_group, override.value()
    if not override.is_sweep_override():
        raise UserError(f"{text} has a single value: {SYNTAX}")
    if not isinstance(value, IntervalSweep):
        return Dimension(key, choices=tuple(v.partition("=")[2] for v in values_of(override, multirun=True)))
    low, high, log = value.start, value.end, "log" in value.tags
    if low is None or high is None or not low < high or (log and low <= 0) or value.tags - {"log"}:
        raise UserError(f"{text}: an interval needs LOW < HIGH, and LOW > 0 if logarithmic; its only tag is log")
    return Dimension(key, low, high, log)
