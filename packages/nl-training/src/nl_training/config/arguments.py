"""The command line as Hydra's flags and overrides, which may stand in any order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nl_nodes import UserError
from nl_training.config.resolve import near

SHORT = {
    "-m": "--multirun", "-r": "--run", "-c": "--cfg", "-i": "--info", "-h": "--help", "-p": "--package",
    "-sc": "--shell-completion",
}  # fmt: skip
COMPLETION = "--shell-completion"
# What each flag that takes a word may be followed by; None for any word. Flags that bring other config files are no
# flags of the scripts.
WORDS = {
    "--cfg": ("job", "hydra", "all"),
    "--info": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
    "--package": None,
}
HELP = ("--help", "--hydra-help", "--version")
MODES = ("--run", "--multirun", "--cfg", "--info")
FLAGS = {*HELP, *MODES, "--resolve", "--package"}


@dataclass(frozen=True)
class Arguments:
    """A command line.

    Attributes:
        flags: the word of each flag by its long name, "" where it takes none.
        overrides: the rest.
    """

    flags: dict[str, str]
    overrides: list[str]

    @property
    def multirun(self) -> bool:
        """Whether it asks for a sweep."""
        return "--multirun" in self.flags

    @property
    def runs(self) -> bool:
        """Whether it runs the task; else it only shows something."""
        return self.flags.keys() <= {"--run", "--multirun"}

    def ordered(self) -> list[str]:
        """The same with the flags first, the only order that Hydra's parser takes."""
        return [f"{flag}={word}" if word else flag for flag, word in self.flags.items()] + self.overrides


def split(arguments: Sequence[str]) -> Arguments:
    """Tell flags from overrides.

    Raises:
        UserError: for a flag that is none, that lacks its word, or that does not go with another.
    """
    flags: dict[str, str] = {}
    overrides: list[str] = []
    left = list(arguments)
    while left:
        text = left.pop(0)
        if not text.startswith("-"):
            overrides.append(text)
            continue
        given, equals, word = text.partition("=")
        flag = SHORT.get(given, given)
        if flag == COMPLETION:
            return Arguments({flag: ""}, [*overrides, *left])
        if flag not in FLAGS:
            raise UserError(f"{given} is no flag of this script: {near(given, FLAGS | SHORT.keys())}")
        flags[flag] = _word(flag, given, word if equals else None, left)
    return _fitting(flags, overrides)


def _word(flag: str, given: str, word: str | None, left: list[str]) -> str:
    """The word of a flag: what stands behind its `=`, or the next argument."""
    if flag not in WORDS:
        if word is not None:
            raise UserError(f"{given} takes no value: leave ={word} out")
        return ""
    known = WORDS[flag]
    if word is None:
        if flag == "--info" and (not left or "=" in left[0] or left[0].startswith("-")):
            return "all"
        word = left.pop(0) if left else ""
    if known is None:
        if not word or word.startswith("-"):
            raise UserError(f"{given} takes the part of the config to show, such as {given} model")
    elif word not in known:
        raise UserError(f"{given} {word}: {near(word, known)}")
    return word


def _fitting(flags: dict[str, str], overrides: list[str]) -> Arguments:
    """Refuse flags that do not go together; a flag that shows help wins over all others."""
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
