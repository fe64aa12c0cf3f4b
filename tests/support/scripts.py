"""Runs scripts in processes that start quickly: they are forked from a server that has imported their packages.

Importing MLflow, Hydra and Matplotlib takes seconds, and so does their first use; a test's training takes a fraction of
a second. Except for the imports and filled caches the processes equal those of `python scripts/...`: arguments,
environment, folder, exit code, signals and the shutdown of the interpreter. Tests of the imports themselves start
Python as usual.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import select
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import IO, Any

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
IMPORTS = (
    "alembic.command", "hydra._internal.hydra", "matplotlib.backends.backend_agg", "matplotlib.figure", "mlflow.pyfunc",
    "mlflow.store.tracking.sqlalchemy_store", "nl_training.commands.train", "nl_training.commands.draw",
    "nl_training.experiments.runner", "nl_training.commands.gradcheck", "nl_training.commands.evaluate",
    "nl_training.commands.predict", "nl_training.tracking.resume", "nl_training.commands.search",
    "nl_training.tracking.sweep_run", "sklearn.datasets", "sklearn.metrics",
)  # fmt: skip


class Started:
    """A process with the part of `subprocess.Popen`'s interface that tests use.

    Args:
        script: the name of a script, or `-c`.
        arguments: arguments of the script, or code and its arguments.
        env: the complete environment; by default this process's.
        cwd: the working directory; by default this process's.
        stdout: an open file; by default a pipe, the attribute `stdout`.
        stderr: likewise, `stderr`.
    """

    def __init__(
        self,
        script: str,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdout: IO[str] | None = None,
        stderr: IO[str] | None = None,
    ) -> None:
        self.args = _command(script, arguments)
        self.returncode: int | None = None
        self.stdout, out = _outlet(stdout)
        self.stderr, err = _outlet(stderr)
        here, there = socket.socketpair()
        socket.send_fds(_server(), [b"start"], [there.fileno(), out, err])
        there.close()
        for pipe, end in ((self.stdout, out), (self.stderr, err)):
            if pipe is not None:
                os.close(end)
        self._answers = here.makefile("r")
        asked = {"arguments": self.args, "env": dict(env or os.environ), "cwd": str(cwd or Path.cwd())}
        here.sendall(json.dumps(asked).encode())
        here.shutdown(socket.SHUT_WR)
        self._link = here
        self.pid = int(self._answers.readline())

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while the process runs."""
        if self.returncode is None and select.select([self._link], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of the process and return the exit code."""
        if self.returncode is None:
            if not select.select([self._link], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self.returncode = int(self._answers.readline())
            self._answers.close()
            self._link.close()
        return self.returncode

    def communicate(self, timeout: float = 240) -> tuple[str, str]:
        """Read stdout and stderr until the end of the process."""
        deadline = time.monotonic() + timeout
        said = {pipe: b"" for pipe in (self.stdout, self.stderr) if pipe is not None and not pipe.closed}
        with selectors.DefaultSelector() as open_:
            for pipe in said:
                open_.register(pipe, selectors.EVENT_READ)
            while open_.get_map():
                ready = open_.select(max(0, deadline - time.monotonic()))
                if not ready:
                    raise subprocess.TimeoutExpired(self.args, timeout)
                for key, _ in ready:
                    chunk = os.read(key.fd, 2**16)
                    said[key.fileobj] += chunk  # type: ignore[index]
                    if not chunk:
                        open_.unregister(key.fileobj)
        self.wait(timeout)
        for pipe in said:
            pipe.close()
        out, err = (said.get(pipe, b"").decode() if pipe else "" for pipe in (self.stdout, self.stderr))
        return out, err

    def __del__(self) -> None:
        for file in (self.stdout, self.stderr, self._answers, self._link):
            if file is not None:
                file.close()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def python(script: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    """Start the same process as usual, including its imports."""
    command = [sys.executable, *_command(script, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, **{**pipes, **options})


def run_script(
    script: str, *arguments: str, start: Callable[..., Any] = Started, timeout: float = 240, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a script, or `-c` and code, to its end; `start` is `Started` or `python`, and gets the options."""
    process = start(script, *arguments, **options)
    try:
        out, err = process.communicate(timeout)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.wait(), out, err)


def _command(script: str, arguments: tuple[str, ...]) -> list[str]:
    return [script if script == "-c" else str(SCRIPTS / script), *arguments]


def _outlet(file: IO[str] | None) -> tuple[IO[str] | None, int]:
    """Return a new pipe's read end and write descriptor, or None and the file's descriptor."""
    if file is not None:
        return None, file.fileno()
    reading, writing = os.pipe()
    return os.fdopen(reading), writing


@cache
def _server() -> socket.socket:
    """Start the server that has imported everything, and return the socket to it; it ends with this process."""
    here, there = socket.socketpair()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    with there:
        there.set_inheritable(True)
        os.posix_spawn(sys.executable, [sys.executable, __file__, str(there.fileno())], environment)
    return here


def _serve(orders: socket.socket) -> dict[str, Any]:
    """Fork for each request; return the request in the forked processes."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(orders, 16, 3)
        if not message:
            os._exit(0)
        if os.fork() == 0:
            orders.close()
            return _forked(*descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        with suppress(ChildProcessError):  # reap ended children
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _forked(link: int, out: int, err: int) -> dict[str, Any]:
    """Fork once more: the parent reports the process ID and the exit code."""
    with socket.socket(fileno=link) as answers:
        asked: dict[str, Any] = json.loads(answers.makefile("r").read())
        pid = os.fork()
        if pid:
            answers.sendall(f"{pid}\n".encode())
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            answers.sendall(f"{code}\n".encode())
            os._exit(0)
    for descriptor, number in ((out, 1), (err, 2)):
        os.dup2(descriptor, number)
        os.close(descriptor)
    return asked


def _become(arguments: list[str], env: dict[str, str], cwd: str) -> None:
    """Act like `python ARGUMENTS`, with imports done."""
    # New streams, since those from before the fork have cached the kind of their files.
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115  # open until the process ends
    sys.stderr = open(2, "w", 1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    if arguments[0] == "-c":
        sys.argv, sys.path[0] = ["-c", *arguments[2:]], ""
        exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv, sys.path[0] = arguments, str(SCRIPTS)
        runpy.run_path(arguments[0], run_name="__main__")


def _fill_caches() -> None:
    """Let libraries do what they do once in a process, at its first config, query, figure and model."""
    from sqlalchemy.orm import configure_mappers

    from nl_training.config.cli import check
    from nl_training.tracking import provenance
    from nl_training.viz import plots

    check(["model=mlp", "data=digits"], multirun=False)
    configure_mappers()
    provenance.packages()
    plots.learning_curves([(1, 2.0, 0.1), (30, 0.5, 0.9)], [], "steps").canvas.draw()
    import_module("mlflow.utils.requirements_utils").warn_dependency_requirement_mismatches(["numpy"])


if __name__ == "__main__":
    from nl_training.tracking.store import prepare_environment

    prepare_environment()
    for name in IMPORTS:
        import_module(name)
    _fill_caches()
    gc.freeze()  # otherwise garbage collection at exit copies the memory pages of all modules
    _become(**_serve(socket.socket(fileno=int(sys.argv[1]))))
