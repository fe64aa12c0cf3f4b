"""`nox -s fuzz`: a coverage-guided fuzzer for every reader of external files: valid or refused in one line.

Each reader runs in its own process, in which Atheris (libFuzzer) mutates valid files to reach new lines of code.
Any other effect of an input is a finding: another exception, more than `SECONDS` of time or `MEMORY` bytes, a started
program, a file written elsewhere, a connection. The input is saved in outputs/fuzz.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
FINDINGS = FOLDER.parents[1] / "outputs" / "fuzz"
NAMES = (
    "idx", "image", "npz", "npz array", "csv", "cifar", "sealed cifar", "letters", "sealed letters", "checkpoint",
    "sealed checkpoint", "weights", "certificate", "sealed certificate", "command line",
)  # fmt: skip
SECONDS = 20  # timeout for one input; most take a millisecond
MEMORY = 2**26  # largest allocation of Python and NumPy for one input of at most LONGEST bytes
LONGEST = 2**14
OURS = [
    "nl_training", "nl_models", "nl_nodes.verify", "PIL", "safetensors", "zipfile", "tarfile", "csv", "numpy.lib",
    "gzip", "json",
]  # fmt: skip
# Audit events that a reader must not cause; files may only be read.
FORBIDDEN = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect", "pickle.")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2000, help="inputs per reader")
    parser.add_argument("--seconds", type=int, default=60, help="time limit per reader")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--readers", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.inside:
        inside(asked.readers[0], Path(asked.inside), asked)
    counts = {name: fuzzed(name, asked) for name in asked.readers}
    found = sum(bad for _, bad in counts.values())
    print(f"{sum(n for n, _ in counts.values()):,} inputs to {len(counts)} readers, {found} findings")
    return 1 if found else 0


def fuzzed(name: str, asked: argparse.Namespace) -> tuple[int, bool]:
    """Fuzz one reader in a new process; return the number of inputs and whether one was a finding."""
    FINDINGS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        limits = ["--runs", str(asked.runs), "--seconds", str(asked.seconds), "--seed", str(asked.seed)]
        command = [sys.executable, __file__, "--inside", folder, *limits, "--readers", name]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    count = re.search(r"number_of_executed_units: (\d+)", done.stdout)
    lines = re.findall(r"cov: (\d+)", done.stdout) or ["0"]
    bad = done.returncode != 0 or count is None
    number = int(count[1]) if count else 0
    print(f"{name:20} {number:7,} inputs, {lines[0]:>5} -> {lines[-1]:>5} branches{': FINDING' if bad else ''}")
    if bad:
        print(done.stdout[-4000:])
    sys.stdout.flush()
    return number, bad


def inside(name: str, folder: Path, asked: argparse.Namespace) -> None:
    """Fuzz one reader in this process; does not return."""
    import atheris

    sys.path[:0] = [str(FOLDER), str(FOLDER.parent)]
    with atheris.instrument_imports(include=OURS):
        from readers import READERS, taken

    reader = READERS[name]
    corpus, path = folder / "corpus", folder / "input"
    corpus.mkdir()
    for number, seed in enumerate(reader.seeds()):
        (corpus / str(number)).write_bytes(seed)
        path.write_bytes(seed)
        taken(reader, path)  # fills caches before memory is measured
    watch = Watch(folder)
    if reader.traced:
        tracemalloc.start()

    def one(data: bytes) -> None:
        path.write_bytes(data)
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        taken(reader, path)
        used = tracemalloc.get_traced_memory()[1] - before
        assert used < MEMORY, f"{used:,} bytes for an input of {len(data)}"
        assert not watch.seen, f"a reader did {watch.seen}"

    options = [
        f"-runs={asked.runs}", f"-max_total_time={asked.seconds}", f"-timeout={SECONDS}", f"-seed={asked.seed}",
        f"-max_len={LONGEST}", f"-only_ascii={int(not reader.binary)}", f"-use_cmp={int(not reader.checked)}",
        "-len_control=0", "-print_final_stats=1", f"-artifact_prefix={FINDINGS / name.replace(' ', '-')}-",
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *options, str(corpus)], one)
    atheris.Fuzz()


class Watch:
    """An audit hook; `seen` has the forbidden events."""

    def __init__(self, folder: Path) -> None:
        self.seen: list[str] = []
        self._folder = str(folder)
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        places = (self._folder, str(FINDINGS), os.devnull)  # libtiff's messages go to the last
        if event.startswith(FORBIDDEN) or (writes and not str(arguments[0]).startswith(places)):
            self.seen.append(f"{event} {arguments}")


if __name__ == "__main__":
    sys.exit(main())
