"""Experiments in their reduced form, with strict verification of each training."""

from functools import cache

from omegaconf import DictConfig

from nl_training.commands.train import train
from nl_training.config.cli import _compose
from nl_training.config.resolve import reduced, resolve
from nl_training.config.schema import Config
from nl_training.experiments.result import Figures
from nl_training.experiments.runner import study


@cache
def small(name: str, *overrides: str) -> Figures:
    """Return the result of an experiment's reduced form; its figures are drawn, to find errors in drawing."""
    config, cfg = composed(name, *overrides)
    assert config.experiment is not None
    found = study(config.experiment.study)(config, cfg)
    for figure in found.figures.values():
        figure.canvas.draw()
    return found


def trained(name: str) -> None:
    """Run the reduced form of an experiment that is an ordinary training, without logging."""
    assert train(*composed(name, "tracking=off")) is not None


def composed(name: str, *overrides: str) -> tuple[Config, DictConfig]:
    """Return a reduced experiment's config, with strict verification unless it is off."""
    cfg = reduced(_compose([f"experiment={name}", "reduced=true", *overrides]))
    if cfg.verify.mode != "off":
        cfg.verify.mode = "strict"
    return resolve(cfg), cfg
