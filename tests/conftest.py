"""Settings of all tests: environment, CPU affinity and Hypothesis profiles."""

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
# Tests run in several processes; more BLAS threads than cores would make them ten times slower.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))
# With several test processes, each process and its children are pinned to one core: workers that wait for each other
# on busy cores are slow. Tests that need two workers set their number.
if hasattr(os, "sched_setaffinity") and (number := os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")):
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, [cores[int(number) % len(cores)]])

# The same examples in every run, and with --thorough many new ones.
settings.register_profile("usual", max_examples=20, deadline=None, derandomize=True)
settings.register_profile(
    "thorough", max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--thorough", action="store_true", help="200 new random inputs a test, not 20; every mutant")
    parser.addoption("--kernels", action="store_true", help="run what is compiled as a GPU's kernels, through g++")


def pytest_configure(config: pytest.Config) -> None:
    settings.load_profile("thorough" if config.getoption("--thorough") else "usual")
    if config.getoption("--kernels"):
        from support.kernels.everywhere import install

        install()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--kernels"):
        from support.kernels.everywhere import deselected

        left_out = deselected(items)
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collect without the garbage collector, which would go through all that is imported, a fifth of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
