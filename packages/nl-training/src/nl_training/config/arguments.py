"""Parser of the command line: Hydra's flags and overrides, in any order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nl_nodes import UserError
from nl_nodes.arguments import near

SHORT = {
    "-m": "--multirun", "-r": "--run", "-c": "--cfg", "-i": "--info", "-h": "--help", "-p": "--package",
    "-sc": "--shell-completion",
}  # fmt: skip
COMPLETION = "--shell-completion"
# Valid values of each flag that takes one; None for any. Of Hydra's flags for other config files only `--config-dir` is
# taken, before the others (folders.py).
VALUES = {
    "--cfg": ("job", "hydra", "all"),
    "--info": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
    "--package": None,
}
HELP = ("--help", "--hydra-help", "--version")
MODES = ("--run", "--multirun", "--cfg", "--info")
FLAGS = {*HELP, *MODES, "--resolve", "--package"}


@dataclass(frozen=True)
class Arguments:
    """A parsed command line.

    Attributes:
        flags: the value of each flag by its long name, "" if it takes none.
        overrides: the other arguments.
    """

    flags: dict[str, str]
    overrides: list[str]

    @property
    def multirun(self) -> bool:
        """Whether it starts a sweep."""
        return "--multirun" in self.flags

    @property
    def runs(self) -> bool:
        """Whether it runs the task, rather than only showing help or the config."""
        return self.flags.keys() <= {"--run", "--multirun"}

    def ordered(self) -> list[str]:
        """Return the arguments with the flags first, the only order that Hydra's parser accepts."""
        return [f"{flag}={value}" if value else flag for flag, value in self.flags.items()] + self.overrides


def split(arguments: Sequence[str]) -> Arguments:
    """Split arguments into flags and overrides.

    Raises:
        UserError: on an unknown flag, a flag without its value, or flags that exclude each other.
    """
    flags: dict[str, str] = {}
    overrides: list[str] = []
    left = list(arguments)
    while left:
        text = left.pop(0)
        if not text.startswith("-"):
            overrides.append(text)
            continue
        given, equals, value = text.partition("=")
        flag = SHORT.get(given, given)
        if flag == COMPLETION:
            return Arguments({flag: ""}, [*overrides, *left])
        if flag not in FLAGS:
            raise UserError(f"{given} is not a flag of this command: {near(given, {*FLAGS, *SHORT, '--config-dir'})}")
        flags[flag] = _value(flag, given, value if equals else None, left)
    return _check_combination(flags, overrides)


def _value(flag: str, given: str, value: str | None, left: list[str]) -> str:
    """Return the value of a flag: the text after its `=`, or the next argument."""
    if flag not in VALUES:
        if value is not None:
            raise UserError(f"{given} takes no value: leave ={value} out")
        return ""
    known = VALUES[flag]
    if value is None:
        if flag == "--info" and (not left or "=" in left[0] or left[0].startswith("-")):
            return "all"
        value = left.pop(0) if left else ""
    if known is None:
        if not value or value.startswith("-"):
            raise UserError(f"{given} takes the part of the config to show, such as {given} model")
    elif value not in known:
        raise UserError(f"{given} {value}: {near(value, known)}")
    return value


def _check_combination(flags: dict[str, str], overrides: list[str]) -> Arguments:
    """Reject flags that exclude each other; a help flag overrides all others."""
    for flag in HELP:
        if flag in flags:  # Hydra's own help and its version depend on no override
            return Arguments({flag: ""}, overrides if flag == "--help" and "--multirun" not in flags else [])
    modes = [flag for flag in MODES if flag in flags]
    if len(modes) > 1:
        raise UserError(f"{modes[0]} and {modes[1]} do not go together: leave one out")
    for flag in ("--resolve", "--package"):
        if flag in flags and "--cfg" not in flags:
            raise UserError(f"{flag} goes with --cfg, such as --cfg job {flag}{' model' * (flag == '--package')}")
    return Arguments(flags, overrides)
