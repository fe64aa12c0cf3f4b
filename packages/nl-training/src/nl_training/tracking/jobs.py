"""Keys of a sweep's jobs, so that a resumed sweep repeats none that is finished."""

from __future__ import annotations

import os
from hashlib import sha256
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from nl_training.tracking import parent_run, provenance

if TYPE_CHECKING:
    from mlflow.entities import Run

    from nl_training.tracking.store import Store

JOB = "sweep.job"
IGNORED = ("resume", "sweep", "tracking")  # config groups that do not affect a job's result


def job_key(cfg: DictConfig, digest: str) -> str:
    """Return a hash of everything that a job's result depends on: its config, data digest and commit."""
    config = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(config, dict)
    config["trainer"].pop("max_seconds", None)  # a resumed sweep may have another limit
    relevant = {key: value for key, value in config.items() if key not in IGNORED}
    commit = provenance.own_git_tags().get("mlflow.source.git.commit", "")
    return sha256(f"{OmegaConf.to_yaml(relevant, sort_keys=True)}\n{digest}\n{commit}".encode()).hexdigest()


def previous_run(store: Store, key: str) -> Run | None:
    """Return this sweep's newest run of a job; None if there is none or this process belongs to no sweep."""
    parent = os.environ.get(parent_run.PARENT)
    runs = parent_run.children(store, parent, **{JOB: key}) if parent else []
    return runs[-1] if runs else None
