"""Names of runs, made of the overrides that tell them apart, and the tags and the note that the user gives."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from nl_training.config.resolve import target_name
from nl_training.config.sweep_jobs import key_of
from nl_training.tracking.jobs import IGNORED

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from nl_training.config.schema import Config

SWEPT = "NL_SWEPT_KEYS"  # the environment variable of a sweep's jobs with the keys in which they differ
NOTE = "mlflow.note.content"
LONGEST = 250  # characters of a name in MLflow's databases
IN_FIRST_WORDS = ("model", "optimizer", "experiment")


def run_name(config: Config, cfg: DictConfig) -> str:
    """Return the name of a run: in a sweep its own overrides, else the given name, else one of its main parts.

    Args:
        config: the validated config.
        cfg: the config that it was resolved from.
    """
    overrides = _overrides()
    if keys := os.environ.get(SWEPT):
        return joined(text for text in overrides if key_of(text) in keys.split(","))
    if config.tracking.name:
        return config.tracking.name[:LONGEST]
    first = f"{config.model.name} {target_name(cfg.optimizer)}"
    if config.experiment is not None:
        first = config.experiment.name
    skipped = (*IGNORED, "hydra")
    others = (text for text in overrides if key_of(text) not in IN_FIRST_WORDS and _head(text) not in skipped)
    return joined([first, *others])


def joined(words: Iterable[str]) -> str:
    """Return words as one name, cut at the length that databases take."""
    return " ".join(words)[:LONGEST]


def user_tags(config: Config) -> dict[str, str]:
    """Return the tags that the user gives to a run, and its note: the user's, and the experiment's description."""
    tags = {key: str(value) for key, value in (config.tracking.tags or {}).items()}
    note, e = config.tracking.note, config.experiment
    if e is not None:
        note = paragraphs(note, f"**{e.title}** ({e.source})", e.see)
    return {**tags, NOTE: note} if note else tags


def paragraphs(*texts: str | None) -> str:
    """Return Markdown texts one below the other; None and empty ones are left out."""
    return "\n\n".join(text for text in texts if text)


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    cells = (text.replace("|", "\\|") for row in rows for text in row)
    lines = [" | ".join(row) for row in (titles, ["---"] * len(titles), *zip(*[cells] * len(titles), strict=True))]
    return "\n".join(f"| {line} |" for line in lines)


def _overrides() -> Sequence[str]:
    """Return the overrides of this run, none outside Hydra."""
    from hydra.core.hydra_config import HydraConfig

    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def _head(override: str) -> str:
    return override.replace("/", ".").partition("=")[0].partition(".")[0]
