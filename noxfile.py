"""The project's checks. `nox` alone runs what every change must pass; `nox -l` lists the rest."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import nox

nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["tests", "gradient", "mutants", "lint", "types"]

ROOT = Path(__file__).parent
PACKAGES = ["nl-nodes", "nl-layers", "nl-models", "nl-training"]
OWN_TESTS = {
    "nl-nodes": ["tests/unit/nodes", "tests/unit/compiler", "tests/unit/runtime", "tests/unit/verify"],
    "nl-layers": ["tests/unit/layers"],
    "nl-models": ["tests/unit/models"],
    "nl-training": ["tests/unit/training", "tests/unit/search", "tests/unit/experiments"],
}
SOURCES = [f"packages/{name}/src" for name in PACKAGES]
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}


def install(session: nox.Session) -> None:
    session.install("-c", "constraints.txt", "-r", "requirements-dev.txt")
    session.env.update(QUIET)


def install_up_to(session: nox.Session, package: str) -> None:
    """A package and the floors below it, and what tests need: a tenth of the rest's time and room."""
    floors = PACKAGES[: PACKAGES.index(package) + 1]
    editable = [part for name in floors for part in ("-e", f"packages/{name}")]
    session.install("-c", "constraints.txt", "pytest", "pytest-xdist", "hypothesis", *editable)


def workers() -> list[str]:
    return ["-n", str(min(os.cpu_count() or 1, 8)), "--dist", "worksteal"]


@nox.session
def tests(session: nox.Session) -> None:
    """Every test but the tiers below, and the examples in the docstrings."""
    install(session)
    session.run("pytest", *workers(), "--doctest-modules", "tests", *SOURCES, *session.posargs)


@nox.session
def gradient(session: nox.Session) -> None:
    """Every node, layer, loss and model against numerical gradients; `-- --thorough` draws 200 random inputs a node."""
    install_up_to(session, "nl-models")
    session.run("pytest", *workers(), "-m", "gradient", "tests/gradient", *session.posargs)


@nox.session(default=False)
def false_alarms(session: nox.Session) -> None:
    """Right gradients of narrow models over 1,000 seeds: the check rejects none."""
    install(session)
    session.run("python", "tests/unit/training/false_alarms.py", *session.posargs)


@nox.session(default=False)
def sabotage(session: nox.Session) -> None:
    """Errors planted into what trains: `verify=strict` refuses each before the first step."""
    install(session)
    session.run("pytest", *workers(), "-m", "sabotage", "tests/unit/training/test_sabotage.py", *session.posargs)


@nox.session
def mutants(session: nox.Session) -> None:
    """Wrong changes to every node, each of which some check must notice; `-- --thorough` makes all of fused nodes too.

    The score lies in outputs/mutants.json.
    """
    install_up_to(session, "nl-models")
    session.run("pytest", "-m", "mutants", "tests/mutants", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, the ladder of packages, and array functions from the device alone."""
    session.install("-c", "constraints.txt", "ruff", "import-linter")
    session.install("--no-deps", *(part for name in PACKAGES for part in ("-e", f"packages/{name}")))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports")


@nox.session
def types(session: nox.Session) -> None:
    """Strict types in the packages."""
    install(session)
    session.run("mypy", *SOURCES)


@nox.session(default=False)
@nox.parametrize("package", PACKAGES)
def packages(session: nox.Session, package: str) -> None:
    """Each package with just the floors below it: it imports, and its tests pass."""
    install_up_to(session, package)
    session.run("pytest", "-m", "not browser and not gpu and not peers", *OWN_TESTS[package], *session.posargs)


@nox.session(default=False)
def browser(session: nox.Session) -> None:
    """The MLflow UI in a real Chromium, and a model that MLflow serves."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        session.skip("needs Chromium: apt-get install chromium chromium-driver")
    install(session)
    session.run("pytest", "-m", "browser", "tests/browser", "tests/unit/training/test_serving.py", *session.posargs)


@nox.session(default=False)
def peers(session: nox.Session) -> None:
    """Every layer, loss, model and optimizer against PyTorch in float64."""
    install(session)
    session.install("-c", "constraints.txt", "-r", "requirements-peers.txt")
    # One thread: the arrays are small, and PyTorch's threads wait for each other by spinning.
    session.run("pytest", "-m", "peers", "tests/peers", *session.posargs, env={"OMP_NUM_THREADS": "1"})


@nox.session(default=False)
def gpu(session: nox.Session) -> None:
    """Every node, layer and model on a real GPU, with the CPU's values; `-- cuda12` for an older driver."""
    if not shutil.which("nvidia-smi"):
        session.skip("needs an NVIDIA GPU and its driver")
    install(session)
    session.install("-c", "constraints.txt", "-e", f"packages/nl-nodes[{(session.posargs or ['cuda13'])[0]}]")
    session.run("pytest", "-m", "gpu", "tests/gpu")


@nox.session(default=False)
def chaos(session: nox.Session) -> None:
    """1,000 interrupts of networks, a server killed under runs, a full disk, 100 SIGKILLs of runs: the same end."""
    install(session)
    session.run("pytest", "-m", "chaos", "tests/chaos")
    session.run("python", "tests/chaos/kills.py", *session.posargs)


@nox.session(default=False)
def launchers(session: nox.Session) -> None:
    """Sweeps on a local Ray cluster, and on a SLURM of one node that it starts where Debian's packages are there."""
    install(session)
    session.install("-c", "constraints.txt", "-r", "requirements-launchers.txt")
    session.run("pytest", "-m", "launchers", "-rs", "tests/launchers", *session.posargs)


@nox.session(default=False)
def fuzz(session: nox.Session) -> None:
    """A coverage-guided fuzzer on every reader of files and command lines; what it finds is kept in outputs/fuzz.

    Then random programs of calls on networks beside the reference; `-- programs --seed 5 --count 1` for these alone.
    """
    install(session)
    programs = session.posargs[:1] == ["programs"]
    if not programs:
        session.install("atheris==3.0.0")
        session.run("python", "tests/fuzz/fuzz.py", *session.posargs)
    if programs or not session.posargs:
        # One thread each for BLAS: the arrays are small, and two programs run at a time.
        session.run("python", "tests/fuzz/programs.py", *session.posargs[1:], env={"OPENBLAS_NUM_THREADS": "1"})


@nox.session(default=False)
def ui(session: nox.Session) -> None:
    """The MLflow UI on this machine, the lean way; prints where to look."""
    install(session)
    session.run("python", "-m", "nl_training.tracking.ui", *session.posargs)


@nox.session(default=False)
def gallery(session: nox.Session) -> None:
    """Every experiment, or those named behind `--`: figures in docs/gallery, words and numbers in docs/gallery.md."""
    install(session)
    # One thread: most of these networks are small, and threads that wait for one another slow them.
    session.run("python", "-m", "nl_training.experiments.gallery", *session.posargs, env={"OPENBLAS_NUM_THREADS": "1"})


@nox.session(default=False)
def lock(session: nox.Session) -> None:
    """Compile constraints.txt anew."""
    session.install("uv")
    options = ["--universal", "--python-version", "3.11", "--no-annotate", "--no-header"]
    needs = ["requirements-dev.txt", "requirements-launchers.txt"]
    text = session.run("uv", "pip", "compile", *options, *needs, silent=True, stderr=sys.stderr)
    pins = [line for line in str(text).splitlines() if line and not line.startswith("-e")]
    head = "# Every version, pinned; made by `nox -s lock`."
    (ROOT / "constraints.txt").write_text("\n".join([head, *pins]) + "\n")
