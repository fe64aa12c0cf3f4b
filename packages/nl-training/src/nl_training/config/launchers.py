"""Optional launchers of sweeps: requirements checked up front, jobs ended with the sweep."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from shutil import which
from typing import Any
from uuid import uuid4

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf

from nl_nodes import UserError
from nl_training.paths import CONF

RAY, SUBMITIT = "hydra-ray-launcher", "hydra-submitit-launcher"
PACKAGES = {"ray": RAY, "submitit_local": SUBMITIT, "submitit_slurm": SUBMITIT}

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",  # else equal lines of two jobs are printed once
    "RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "1",  # else SIGTERM, which ends a sweep cleanly, aborts with a stack trace
    "SUBMITIT_LOG_LEVEL": "ERROR",  # without SLURM accounting it warns at every poll
}


def launcher(overrides: Sequence[str]) -> AbstractContextManager[None]:
    """Return a context for the jobs of the chosen launcher; set its environment variables that the user has not set.

    Raises:
        UserError: if the launcher is not installed, or has no cluster.
    """
    name = _chosen(overrides)
    package = PACKAGES.get(name)
    if package and find_spec(f"hydra_plugins.{package.replace('-', '_')}") is None:
        install = f"python -m pip install -c constraints.txt {package}"
        raise UserError(f"hydra/launcher={name} needs the package {package}: {install}")
    if name == "submitit_slurm" and not (which("sbatch") and which("srun")):
        raise UserError(f"hydra/launcher={name} needs SLURM's sbatch and srun: start it on a node of a cluster")
    for variable, value in SETTINGS.items():
        os.environ.setdefault(variable, value)
    if name == "ray":
        return _ray([text for text in overrides if text.lstrip("+~").startswith(("hydra/launcher", "hydra.launcher"))])
    return _slurm() if name == "submitit_slurm" else nullcontext()


def on_other_machines(overrides: Sequence[str]) -> bool:
    """Return whether the chosen launcher may run jobs on machines that share only a folder."""
    return _chosen(overrides) == "submitit_slurm"


def _chosen(overrides: Sequence[str]) -> str:
    chosen = [text.partition("=")[2] for text in overrides if text.startswith("hydra/launcher=")]
    return chosen[-1] if chosen else "basic"


@contextmanager
def _ray(overrides: Sequence[str]) -> Iterator[None]:
    """Start Ray and restore our SIGTERM handler, which Ray replaces; stop its workers after the sweep."""
    import ray

    ours = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**{"include_dashboard": False, "logging_level": "ERROR", **_ray_options(overrides)})
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise UserError(f"Ray does not start: {str(error).strip().splitlines()[0]}") from error
    signal.signal(signal.SIGTERM, ours)
    try:
        yield
    finally:
        ray.shutdown()


def _ray_options(overrides: Sequence[str]) -> dict[str, Any]:
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("config", overrides=list(overrides), return_hydra_config=True)
    except HydraException as error:
        raise UserError(" ".join(str(error).split())) from None
    options = OmegaConf.to_container(cfg.hydra.launcher.ray.init)
    assert isinstance(options, dict)
    return {str(key): value for key, value in options.items()}


@contextmanager
def _slurm() -> Iterator[None]:
    """Cancel the sweep's SLURM jobs if it is interrupted, and wait until they have closed their runs."""
    from nl_training.interrupts import status_of

    name = os.environ["SBATCH_JOB_NAME"] = f"sweep-{uuid4()}"
    try:
        yield
    except BaseException as error:
        if status_of(error) == "KILLED":
            subprocess.run(["scancel", f"--name={name}"], check=False)
        while subprocess.run(["squeue", "--noheader", f"--name={name}"], stdout=subprocess.PIPE, check=False).stdout:
            time.sleep(1)
        raise
