"""The project's checks: `nox` runs those that every change must pass, `nox -l` lists all."""

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
# The sessions that install exactly requirements-dev.txt; they share one environment, since each would take 0.9 GB.
SHARED = {"tests", "mutants", "types", "false_alarms", "sabotage", "browser", "chaos", "ui", "gallery"}
_own_folder = nox.sessions.SessionRunner.envdir
nox.sessions.SessionRunner.envdir = property(
    lambda runner: str(ROOT / ".nox" / "dev") if runner.name in SHARED else _own_folder.fget(runner)
)
PACKAGES = ["nl-nodes", "nl-layers", "nl-models", "nl-training"]
OWN_TESTS = {
    "nl-nodes": ["tests/unit/nodes", "tests/unit/compiler", "tests/unit/runtime", "tests/unit/verify"],
    "nl-layers": ["tests/unit/layers"],
    "nl-models": ["tests/unit/models"],
    "nl-training": ["tests/unit/training", "tests/unit/search", "tests/unit/experiments"],
}
# Extras that a package's own tests use.
EXTRAS = {"nl-nodes": "[curvature]", "nl-training": "[search]"}
# The tests that compile; those of them that are about NumPy's executors are in tests/support/kernels/everywhere.py.
COMPILED = [
    "tests/unit/compiler/test_plan.py",
    "tests/unit/layers/test_not_finite.py",
    "tests/unit/models",
    "tests/unit/nodes/test_not_finite.py",
    "tests/unit/regressions",
    *(f"tests/unit/training/test_{name}.py" for name in ("checkpoint", "divergence", "probe", "step", "strict")),
    *(f"tests/unit/training/test_{name}.py" for name in ("trainer", "verification", "verification_links")),
]
SOURCES = [f"packages/{name}/src" for name in PACKAGES]
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    # Where this is set, each of the tests' processes compiles all that it imports again, which takes seconds.
    "PYTHONDONTWRITEBYTECODE": "",
}


def install(session: nox.Session) -> None:
    session.install("-c", "constraints.txt", "-r", "requirements-dev.txt")
    session.env.update(ENVIRONMENT)


def install_up_to(session: nox.Session, package: str) -> None:
    """Install a package, the packages below it and test tools: a tenth of the time and space of everything."""
    needed = PACKAGES[: PACKAGES.index(package) + 1]
    editable = [part for name in needed for part in ("-e", f"packages/{name}{EXTRAS.get(name, '')}")]
    session.install("-c", "constraints.txt", "pip", "pytest", "pytest-xdist", "hypothesis", *editable)
    session.env.update(ENVIRONMENT)


def workers() -> list[str]:
    return ["-n", str(min(os.cpu_count() or 1, 8)), "--dist", "worksteal"]


@nox.session
def tests(session: nox.Session) -> None:
    """Run the unit tests and the examples in docstrings."""
    install(session)
    session.run("pytest", *workers(), "--doctest-modules", "tests", *SOURCES, *session.posargs)


@nox.session
def gradient(session: nox.Session) -> None:
    """Check every node, layer, loss and model against numerical gradients; `-- --thorough` uses 200 inputs a node."""
    install_up_to(session, "nl-models")
    session.run("pytest", *workers(), "-m", "gradient", "tests/gradient", *session.posargs)


@nox.session(default=False)
def false_alarms(session: nox.Session) -> None:
    """Check correct gradients of narrow models for 1,000 seeds; none may be rejected."""
    install(session)
    # One thread: the networks are narrow.
    session.run("python", "tests/unit/training/false_alarms.py", *session.posargs, env={"OPENBLAS_NUM_THREADS": "1"})


@nox.session(default=False)
def sabotage(session: nox.Session) -> None:
    """Inject errors into the training code; `verify=strict` must reject each before the first step."""
    install(session)
    session.run("pytest", *workers(), "-m", "sabotage", "tests/unit/training/test_sabotage.py", *session.posargs)


@nox.session
def mutants(session: nox.Session) -> None:
    """Run mutation tests of every node; `-- --thorough` includes all mutants of fused nodes.

    The score is written to outputs/mutants.json.
    """
    install(session)
    session.run("pytest", "-m", "mutants", "tests/mutants", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, import contracts between packages, and that array functions come from the device only."""
    session.install("-c", "constraints.txt", "ruff", "import-linter")
    session.install("--no-deps", *(part for name in PACKAGES for part in ("-e", f"packages/{name}")))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports")


@nox.session
def types(session: nox.Session) -> None:
    """Check types strictly in the packages and the scripts."""
    install(session)
    session.run("mypy", *SOURCES, "scripts")


@nox.session(default=False)
@nox.parametrize("package", PACKAGES)
def packages(session: nox.Session, package: str) -> None:
    """Run each package's tests with only the packages below it installed."""
    install_up_to(session, package)
    session.run("pytest", "-m", "not browser and not gpu and not peers", *OWN_TESTS[package], *session.posargs)


@nox.session(default=False)
def wheels(session: nox.Session) -> None:
    """Build the wheels, install them in an environment of their own and use them outside the repository."""
    session.install("-c", "constraints.txt", "uv", "pytest", "hypothesis", "numpy", "pillow")
    session.run("pytest", "-m", "wheels", "tests/wheels", *session.posargs)


@nox.session(default=False)
def browser(session: nox.Session) -> None:
    """Test the MLflow UI and the graph page in a real Chromium, and a model served by MLflow."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        session.skip("needs Chromium: apt-get install chromium chromium-driver")
    install(session)
    session.run("pytest", "-m", "browser", "tests/browser", "tests/unit/training/test_serving.py", *session.posargs)


@nox.session(default=False)
def peers(session: nox.Session) -> None:
    """Compare every layer, loss, model and optimizer with PyTorch in float64."""
    install(session)
    session.install("-c", "constraints.txt", "-r", "requirements-peers.txt")
    # One thread: the arrays are small, and PyTorch's threads spin while waiting.
    session.run("pytest", "-m", "peers", "tests/peers", *session.posargs, env={"OMP_NUM_THREADS": "1"})


@nox.session(default=False)
def gpu(session: nox.Session) -> None:
    """Compare a real GPU with the CPU and with PyTorch; `-- cuda12` for an older driver, `-- data.root=PATH`.

    All is in one script, which also runs without nox.
    """
    if not shutil.which("nvidia-smi"):
        session.skip("needs an NVIDIA GPU and its driver")
    cuda = "cuda12" if "cuda12" in session.posargs else "cuda13"
    install(session)
    session.install("-c", "constraints.txt", "-e", f"packages/nl-nodes[{cuda}]")
    session.install("-c", "constraints.txt", "-r", "requirements-peers.txt")
    session.run("python", "scripts/gpu_session.py", *(arg for arg in session.posargs if arg != cuda))


@nox.session(default=False)
def kernels(session: nox.Session) -> None:
    """Run the kernels of a GPU on a processor: beside NumPy, under AddressSanitizer and in every test that compiles.

    It also compiles those of all models for three GPUs.
    """
    if not shutil.which("g++"):
        session.skip("needs a C++ compiler: apt-get install g++")
    install(session)
    session.install("nvidia-cuda-nvrtc-cu12==12.9.86")
    session.run("pytest", *workers(), "--kernels", *COMPILED, *session.posargs)
    session.run("pytest", *workers(), "-m", "kernels", "tests/kernels", *session.posargs)


@nox.session(default=False)
def chaos(session: nox.Session) -> None:
    """Test 1,000 interrupts of networks, a killed tracking server, a full disk and 100 SIGKILLs of runs."""
    install(session)
    session.run("pytest", "-m", "chaos", "tests/chaos")
    session.run("python", "tests/chaos/kills.py", *session.posargs)


@nox.session(default=False)
def launchers(session: nox.Session) -> None:
    """Run sweeps on a local Ray cluster, and on a SLURM of one node if Debian's packages are installed."""
    install(session)
    session.install("-c", "constraints.txt", "-r", "requirements-launchers.txt")
    session.run("pytest", "-m", "launchers", "-rs", "tests/launchers", *session.posargs)


@nox.session(default=False)
def fuzz(session: nox.Session) -> None:
    """Fuzz every reader of files and command lines, guided by coverage; findings are kept in outputs/fuzz.

    Then compare random programs of calls on networks with the reference; only these: `-- programs --seed 5 --count 1`.
    """
    install(session)
    programs = session.posargs[:1] == ["programs"]
    if not programs:
        session.install("atheris==3.0.0")
        session.run("python", "tests/fuzz/fuzz.py", *session.posargs)
    if programs or not session.posargs:
        # One BLAS thread each: the arrays are small, and two programs run at a time.
        session.run("python", "tests/fuzz/programs.py", *session.posargs[1:], env={"OPENBLAS_NUM_THREADS": "1"})


@nox.session(default=False)
def docs(session: nox.Session) -> None:
    """Run the notebooks, build the documentation site in outputs/site, and check that every public name is in it."""
    session.install("-c", "constraints.txt", "-r", "requirements-docs.txt", "pytest", "hypothesis")
    session.env.update({**ENVIRONMENT, "NO_MKDOCS_2_WARNING": "1"})
    session.run("python", "docs/notebooks/execute.py")
    session.run("mkdocs", "build", "--strict", "--quiet")
    session.run("pytest", "-m", "site", "tests/site", *session.posargs)


@nox.session(default=False)
def ui(session: nox.Session) -> None:
    """Start the MLflow UI on this machine with low memory use and print its address."""
    install(session)
    session.run("nl", "ui", *session.posargs)


@nox.session(default=False)
def gallery(session: nox.Session) -> None:
    """Run all experiments, or those named after `--`, and update docs/gallery and docs/gallery.md."""
    install(session)
    # One thread: most of these networks are small, and synchronising threads slows them.
    session.run("python", "-m", "nl_training.experiments.gallery", *session.posargs, env={"OPENBLAS_NUM_THREADS": "1"})


@nox.session(default=False)
def lock(session: nox.Session) -> None:
    """Recompile constraints.txt."""
    session.install("uv")
    options = ["--universal", "--python-version", "3.11", "--no-annotate", "--no-header"]
    needs = ["requirements-dev.txt", "requirements-launchers.txt", "requirements-docs.txt"]
    text = session.run("uv", "pip", "compile", *options, *needs, silent=True, stderr=sys.stderr)
    pins = [line for line in str(text).splitlines() if line and not line.startswith("-e")]
    head = "# Every version, pinned; generated by `nox -s lock`."
    (ROOT / "constraints.txt").write_text("\n".join([head, *pins]) + "\n")
