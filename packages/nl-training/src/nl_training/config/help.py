"""The config as `--help` shows it: each key with its value and the comment that explains it in `conf/`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from nl_training.config import folders
from nl_training.paths import CONF


def explained(root: DictConfig) -> str:
    """Return the config, without Hydra's own, as YAML with comments; `$` is doubled for Hydra's help template."""
    comments = _comments(dict(root.hydra.runtime.choices))
    config = OmegaConf.masked_copy(root, [str(key) for key in root if key != "hydra"])
    lines = [
        f"{line} # {comments[path]}" if path in comments else line for line, path in _keys(OmegaConf.to_yaml(config))
    ]
    return "\n".join([*lines, ""]).replace("$", "$$")


def _comments(choices: dict[str, str | None]) -> dict[str, str]:
    """Return the comments of all keys of the chosen options; one without a comment has that of another option."""
    found = _read(CONF / "config.yaml", "")
    for group, option in choices.items():
        for path in sorted(folders.options(group).values(), key=lambda path: path.stem == option):
            everywhere = path.read_text("utf-8").startswith("# @package _global_")
            if path.stem == option or not everywhere:
                found |= _read(path, "" if everywhere else f"{group}.")
    return found


def _read(path: Path, prefix: str) -> dict[str, str]:
    lines = _keys(path.read_text("utf-8"))
    return {prefix + key: line.partition(" # ")[2] for line, key in lines if key and " # " in line}


def _keys(text: str) -> Iterator[tuple[str, str]]:
    """Yield each line of YAML with the path of the key that it gives a value to, such as `trainer.epochs`."""
    path: list[str] = []
    for line in text.splitlines():
        key = re.match(r"((?:  )*)(\w+):", line)
        if key:
            path[len(key[1]) // 2 :] = [key[2]]
        yield line, ".".join(path) if key else ""
