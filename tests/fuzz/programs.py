"""Random programs of calls on networks: compiled networks compared with the reference, in double precision.

    python tests/fuzz/programs.py --count 10000            seeds 0 to 9999
    python tests/fuzz/programs.py --seed 123 --count 1     one program

A program makes its calls directly, from another thread, concurrently from several threads, or interrupted by Ctrl-C at
a random point. The reference makes the same calls one after the other. If several outcomes are correct, such as an
order of concurrent calls, or whether an interrupted call took effect, the compiled network must match one of them; the
matching one is part of the program's record. Any difference above `LIMIT` (in `execution.py`) is a finding; its program
is shrunk and printed.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from fuzz.drawn import Program, draw_program
from fuzz.execution import Small, device, run_program
from support.random_networks import random_network

CHUNK = 250  # programs a process


def failure(program: Program) -> str:
    """Return the error and record of a program, or an empty text if it passes."""
    record: list[str] = []
    try:
        run_program(program, record)
    except Exception as error:
        lines = [f"    {line}" for line in record]
        return "\n".join([f"{type(error).__name__}: {error}", *lines])
    return ""


def shrunk(program: Program, tries: int = 3) -> Program:
    """Return the program without steps that its failure does not need; programs are tried several times each."""
    number = len(program.steps) - 1
    while number >= 0:
        steps = program.steps[:number] + program.steps[number + 1 :]
        fewer = replace(program, steps=steps)
        if any(failure(fewer) for _ in range(tries)):
            program = fewer
        number -= 1
    return program


def told(program: Program, what: str) -> str:
    """Return a failing program as readable text."""
    net = random_network((program.seed, 0), device("reference"), Small)
    layers = ", ".join(type(layer).__name__ for layer in net.layers)
    head = (
        f"seed {program.seed}, workers {program.workers}, batches {program.batches}, input {net.input_shape}: {layers}"
    )
    return f"{head}\n  {what}"


def inside(seeds: range) -> int:
    """Run the programs of these seeds in this process; return the number of failures."""
    bad = 0
    for seed in seeds:
        print(f"seed {seed}", flush=True)
        program = draw_program(seed)
        if what := failure(program):
            bad += 1
            small = shrunk(program)
            print(f"FINDING {told(small, failure(small) or what)}", flush=True)
    return bad


def outside(seeds: range) -> int:
    """Run these seeds in a new process and print its output; return the number of failures, hangs and crashes."""
    command = [sys.executable, __file__, "--inside", "--seed", str(seeds.start), "--count", str(len(seeds))]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said = re.sub(r"^seed \d+\n", "", done.stdout, flags=re.MULTILINE)
    found = said.count("FINDING")
    if done.returncode not in (0, 1) or (done.returncode and not found):
        last = re.findall(r"^seed (\d+)$", done.stdout, flags=re.MULTILINE)[-1:]
        said += f"FINDING the process ended with code {done.returncode} at seed {last}\n"
        found += 1
    print(said, end="", flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="programs")
    parser.add_argument("--seed", type=int, default=0, help="the first one's")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    seeds = range(asked.seed, asked.seed + asked.count)
    if asked.inside:
        return min(inside(seeds), 1)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        chunks = [seeds[i : i + CHUNK] for i in range(0, len(seeds), CHUNK)]
        found = sum(pool.map(outside, chunks))
    print(f"{len(seeds):,} programs, {found} findings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
