"""Command lines of a logged run, `run=ID`, with the few options that it takes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from nl_nodes import UserError
from nl_training.config.cli import asks_for_help, check, script
from nl_training.config.quoting import quote_text
from nl_training.config.schema import Config


def names_run(arguments: Sequence[str]) -> bool:
    """Return whether a command line is for `run_command`: it asks for help, or for a logged run."""
    return asks_for_help(arguments) or any(text.startswith("run=") for text in arguments)


def run_command(
    task: Callable[[str, Config, list[str]], None], help_text: str, takes: Sequence[str] = (), words: bool = False
) -> None:
    """Run a task on a logged run, given as `run=ID` on the command line; exit with code 1 on a user error.

    Args:
        task: called with the run's ID, the config that the overrides compose, and the other arguments.
        help_text: text for `--help`.
        takes: the config's groups and keys that the task uses, in addition to the store's address.
        words: whether the task has arguments of its own; otherwise all others are overrides of the config.
    """
    if asks_for_help(sys.argv[1:]):
        print(help_text)
        return
    with script():
        arguments = sys.argv[1:]
        named = [a for a in arguments if a.startswith("run=")]
        others = [a for a in arguments if not a.startswith("run=")]
        accepted = (*takes, "imports", "tracking.uri", "tracking.experiment_name")
        accepted_overrides = [a for a in others if _matches(a, accepted)]
        if len(named) != 1 or named[0] == "run=":
            raise UserError("which run? add run=ID, from the MLflow UI or the end of a training, or run=latest")
        overrides = accepted_overrides if words else others
        config = check([quote_text(text) for text in overrides], multirun=False)
        for text in overrides:
            if text not in accepted_overrides:
                raise UserError(f"{text}: the run has its own config; only {', '.join(accepted)} may be changed")
        task(named[0].removeprefix("run="), config, [a for a in others if not words or a not in accepted_overrides])


def _matches(text: str, keys: Sequence[str]) -> bool:
    """Return whether an override is of one of these groups or keys."""
    key = text.partition("=")[0]
    return key in keys or key.partition(".")[0] in keys
