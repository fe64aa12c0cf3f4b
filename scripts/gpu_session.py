"""All that is to be done on a GPU, in a quarter of an hour: `python scripts/gpu_session.py data.root=PATH`.

It takes what is installed and needs no network if PATH holds the four files of MNIST. Its parts are processes, what
matters most first. The output of each is in outputs/gpu as it comes; one that fails or takes too long stops no other.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.table import Table

from nl_nodes import Device, UserError

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "outputs" / "gpu"
SECONDS = 900
LEAST = 10  # seconds for which no part is begun
SANITIZER, CUDA = "compute-sanitizer", "/usr/local/cuda/bin"
MODELS = "mlp,cnn3,cnn8,vgg11,vgg16"


@dataclass(frozen=True)
class Part:
    """A command of the session.

    Attributes:
        name: names its output.
        seconds: after which it is stopped.
        command: of a process, in the repository's folder.
        needs: a module or a program without which the part is left out.
    """

    name: str
    seconds: float
    command: Sequence[str]
    needs: str = ""

    @property
    def missing(self) -> bool:
        """Whether what it needs is not installed."""
        return bool(self.needs) and not (importlib.util.find_spec(self.needs) or shutil.which(self.needs))


@dataclass(frozen=True)
class Result:
    """How a part ended: "passed", "failed", "stopped" or "left out", and its last line of output."""

    name: str
    outcome: str
    seconds: float
    last: str


def parts(data: str | None) -> list[Part]:
    """Return the parts, by importance; `data` is the folder of MNIST, None to download it."""
    nodes = "on_gpu_matches_cpu"
    found = [
        Part("models", 150, _tests(f"not {nodes}"), "pytest"),
        Part("speed", 200, _script("bench_gpu.py", "--seconds", "170")),
        Part("accuracy", 120, _accuracy(data)),
        Part("20 epochs", 40, _epochs(data)),
        Part("PyTorch", 210, _script("bench_gpu_torch.py", "--seconds", "180"), "torch"),
        Part("nodes and layers", 180, _tests(nodes), "pytest"),
    ]
    checker = shutil.which(SANITIZER, path=f"{os.environ.get('PATH', '')}:{CUDA}") or SANITIZER
    for model in ("mlp", "cnn3"):
        for tool in ("racecheck", "memcheck"):
            check = [checker, "--tool", tool, "--error-exitcode", "1", *_script("gpu_steps.py", model)]
            found.append(Part(f"{tool} of {model}", 60, check, checker))
    return found


def _script(name: str, *arguments: str) -> list[str]:
    return [sys.executable, f"scripts/{name}", *arguments]


def _tests(names: str) -> list[str]:
    return [sys.executable, "-m", "pytest", "-m", "gpu", "-k", names, "-p", "no:cacheprovider", "-q", "tests/gpu"]


def _accuracy(data: str | None) -> list[str]:
    options = ["--device", "gpu", "--single", "--models", MODELS, "--every", "100"]
    return _script("bench_accuracy.py", *options, *(["--data", data] if data else []))


def _epochs(data: str | None) -> list[str]:
    settings = ["model=mlp", "device=gpu", "trainer.epochs=20", "verify=off"]
    return _script("train.py", *settings, *([f"data.root={data}"] if data else []))


def run(part: Part, seconds: float, folder: Path) -> Result:
    """Run a part for at most `seconds`, with its output in a file."""
    if part.missing:
        return Result(part.name, "left out", 0.0, f"{part.needs} is not installed")
    if seconds < LEAST:
        return Result(part.name, "left out", 0.0, "no time is left")
    begun, path = time.monotonic(), folder / f"{part.name.replace(' ', '_')}.txt"
    with path.open("w") as file:
        outcome = _outcome(part.command, seconds, file)
    lines = path.read_text(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return Result(part.name, outcome, round(time.monotonic() - begun, 1), last)


def _outcome(command: Sequence[str], seconds: float, file: IO[str]) -> str:
    process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        return "failed" if process.wait(seconds) else "passed"
    except subprocess.TimeoutExpired:
        return "stopped"
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)  # and its own children, which would keep the GPU busy
            process.wait()


def session(todo: Sequence[Part], seconds: float, folder: Path, log: Callable[[str], None]) -> list[Result]:
    """Run parts one after another within `seconds`, and write each result as soon as it is there."""
    folder.mkdir(parents=True, exist_ok=True)
    end, results = time.monotonic() + seconds, list[Result]()
    for part in todo:
        results.append(run(part, min(part.seconds, end - time.monotonic()), folder))
        log("{name}: {outcome}, {seconds} s: {last}".format(**asdict(results[-1])))
        (folder / "session.json").write_text(json.dumps([asdict(result) for result in results], indent=1))
    return results


def root_of(text: str) -> str:
    """Return the folder of `data.root=FOLDER`."""
    key, _, path = text.partition("=")
    if key != "data.root" or not Path(path).is_dir():
        raise argparse.ArgumentTypeError(f"{text}: give data.root= and the folder of MNIST")
    return str(Path(path).resolve())


def main() -> None:
    """Run from the command line; exits with 1 where a part has failed or there is no GPU."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="?", type=root_of, metavar="data.root=PATH", help="default: download MNIST")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for all parts together")
    parser.add_argument("--parts", help="only these, comma-separated")
    options = parser.parse_args()
    todo = parts(options.data)
    if options.parts:
        names = options.parts.split(",")
        if unknown := set(names).difference(part.name for part in todo):
            parser.error(f"unknown part {unknown.pop()!r}: use {', '.join(part.name for part in todo)}")
        todo = [part for part in todo if part.name in names]
    try:
        Device("gpu")
    except UserError as error:
        parser.exit(1, f"{error}\n")
    console = Console(width=140)
    results = session(todo, options.seconds, OUTPUT, lambda line: console.print(line, markup=False))
    table = Table("part", "outcome", "seconds", "last line of its output")
    for result in results:
        table.add_row(result.name, result.outcome, str(result.seconds), result.last)
    console.print(table, f"all output is in {OUTPUT}")
    sys.exit(any(result.outcome in ("failed", "stopped") for result in results))


if __name__ == "__main__":
    main()
