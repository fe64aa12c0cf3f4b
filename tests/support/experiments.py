"""Experiments in their reduced form."""

from functools import cache

from nl_training.config.cli import _compose
from nl_training.config.resolve import reduced, resolve
from nl_training.experiments.figures import Figures
from nl_training.experiments.runner import study


@cache
def small(name: str, *overrides: str) -> Figures:
    """The result of an experiment's reduced form, its figures drawn once, so that what only fails in drawing fails."""
    cfg = reduced(_compose([f"experiment={name}", "reduced=true", *overrides]))
    config = resolve(cfg)
    assert config.experiment is not None
    found = study(config.experiment.study)(config, cfg)
    for figure in found.figures.values():
        figure.canvas.draw()
    return found
