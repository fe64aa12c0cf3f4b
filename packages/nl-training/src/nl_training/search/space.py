"""What is searched: keys of the config with the values that they may take, in Hydra's words for sweeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hydra.core.override_parser.types import IntervalSweep

from nl_nodes import UserError
from nl_training.config.cli import composed, parsed, values_of
from nl_training.config.schema import SearchConfig

if TYPE_CHECKING:
    from optuna import Trial

WORDS = "write it as interval(LOW,HIGH), tag(log,interval(LOW,HIGH)), int(interval(LOW,HIGH)) or choice(A,B)"


@dataclass(frozen=True)
class Dimension:
    """One key that is searched: by an interval, or by choices.

    Attributes:
        key: of the config, such as `optimizer.lr`; or a group, such as `model`.
        low: the interval's lower end; whole numbers search whole numbers.
        high: its upper end.
        log: whether to draw the logarithm evenly.
        choices: the values, where it is no interval.
    """

    key: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are searched."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def suggest(self, trial: Trial) -> str:
        """The override that a trial tries."""
        value: object
        if self.choices:
            value = trial.suggest_categorical(self.key, self.choices)
        elif self.whole:
            value = trial.suggest_int(self.key, int(self.low), int(self.high), log=self.log)
        else:
            value = trial.suggest_float(self.key, self.low, self.high, log=self.log)
        return self.override(value)

    def override(self, value: object) -> str:
        """The override that sets a value."""
        return f"{self.key}={value}"

    def ends(self) -> list[str]:
        """The overrides between which all others lie."""
        return [self.override(value) for value in self.choices or (self.low, self.high)]


@dataclass(frozen=True)
class Plan:
    """A search: what is fixed, what is searched, and how.

    Attributes:
        overrides: the whole command line.
        fixed: those of it that are the same for every trial.
        space: what is searched.
        search: the group `search`.
    """

    overrides: tuple[str, ...]
    fixed: tuple[str, ...]
    space: tuple[Dimension, ...]
    search: SearchConfig


def read(overrides: Sequence[str]) -> Plan:
    """Read a command line in which some overrides name several values.

    Raises:
        UserError: where an override, or an end of an interval, is none that the config takes.
    """
    swept = [text for text in overrides if parsed(text).is_sweep_override()]
    own = [text for text in overrides if text.startswith(("search=", "search."))]
    fixed = [text for text in overrides if text not in swept + own]
    if not any(text.startswith("search=") for text in own):
        own = ["search=tpe", *own]
    search = composed([*fixed, *own])[0].search
    assert search is not None  # an option was chosen above
    space = tuple(dimension(text) for text in swept or search.space)
    if not space:
        raise UserError(f"nothing is searched: name a key, such as optimizer.lr; {WORDS}")
    keys = [d.key for d in space]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise UserError(f"{twice[0]} is searched twice")
    for d in space:
        for end in d.ends():
            composed([*fixed, end])
    return Plan(tuple(overrides), tuple(fixed), space, search)


def dimension(text: str) -> Dimension:
    """What an override such as `optimizer.lr=tag(log,interval(1e-4,1e-1))` searches.

    >>> dimension("model.width=int(interval(16,64))")
    Dimension(key='model.width', low=16, high=64, log=False, choices=())
    >>> dimension("optimizer=sgd,adam").choices
    ('sgd', 'adam')
    """
    override = parsed(text)
    key, value = override.key_or_group, override.value()
    if not override.is_sweep_override():
        raise UserError(f"{text} names one value alone: {WORDS}")
    if not isinstance(value, IntervalSweep):
        return Dimension(key, choices=tuple(v.partition("=")[2] for v in values_of(override, multirun=True)))
    low, high, log = value.start, value.end, "log" in value.tags
    if low is None or high is None or not low < high or (log and low <= 0) or value.tags - {"log"}:
        raise UserError(f"{text}: an interval goes up, from above 0 where it is logarithmic; its one tag is log")
    return Dimension(key, low, high, log)
