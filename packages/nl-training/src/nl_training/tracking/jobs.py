"""Which job of a sweep a run is, so that a sweep that goes on does none of them twice."""

from __future__ import annotations

import os
from hashlib import sha256
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from nl_training.paths import ROOT
from nl_training.tracking import parent_run, provenance

if TYPE_CHECKING:
    from mlflow.entities import Run

    from nl_training.tracking.store import Store

JOB = "sweep.job"
APART = ("resume", "sweep", "tracking")  # what a job's result does not depend on


def job_key(cfg: DictConfig, digest: str) -> str:
    """A hash of what a job's result depends on: its config, its data and the commit."""
    config = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(config, dict)
    kept = {key: value for key, value in config.items() if key not in APART}
    commit = provenance.git_tags(ROOT).get("mlflow.source.git.commit", "")
    return sha256(f"{OmegaConf.to_yaml(kept, sort_keys=True)}\n{digest}\n{commit}".encode()).hexdigest()


def job_before(store: Store, key: str) -> Run | None:
    """The run that this sweep has of a job already, the newest where there are several; None in no sweep."""
    parent = os.environ.get(parent_run.PARENT)
    found = parent_run.children(store, parent, **{JOB: key}) if parent else []
    return found[-1] if found else None
