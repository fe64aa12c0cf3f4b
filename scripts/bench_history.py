"""The recorded runs of the benchmark: one file for each kind of processor, and the tables of docs/performance.md."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from bench_machine import Machine

ROOT = Path(__file__).resolve().parent.parent
HISTORY = ROOT / "docs" / "performance"
PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- tables of bench.py --record -->\n", "<!-- end of tables -->\n"

Record = dict[str, Any]
"""One run: date, commit, versions, machine, and `models`, a row by label."""


def row(times: Mapping[str, Sequence[float]], gflop: float, peak: float) -> Record:
    """Return a model's figures.

    Args:
        times: milliseconds of each implementation's steps.
        gflop: operations of a compiled step, in 10^9.
        peak: the machine's GFLOP/s.
    """
    medians = {name: float(np.median(of)) for name, of in times.items()}
    peers = [ms for name, ms in medians.items() if name.startswith("torch")]
    speed = 1e3 * gflop / medians["compiled"]
    return {
        "ms": {name: [round(float(q), 3) for q in np.percentile(of, (25, 50, 75))] for name, of in times.items()},
        "GFLOP": round(gflop, 4),
        "GFLOP/s": round(speed, 1),
        "of peak": round(speed / peak, 3),
        "against torch": round(min(peers) / medians["compiled"], 3) if peers else None,
    }


def record(machine: Machine, models: Mapping[str, Record]) -> Record:
    """Return the record of a run on this checkout."""
    versions = {name: found for name in ("numpy", "torch") if (found := _version(name))}
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    commit = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
    return {
        "date": date.today().isoformat(),
        "commit": commit,
        "versions": versions,
        "machine": asdict(machine),
        "models": dict(models),
    }


def _version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version  # here, as a benchmark of memory would measure it

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def append(run: Record, folder: Path = HISTORY) -> Path:
    """Append a run to the file of its kind of processor, and return the file."""
    kind = f"{run['machine']['processor']} {run['machine']['blas'].split()[-1]}"
    path = folder / f"{re.sub('[^a-z0-9]+', '-', kind.lower())}.json"
    runs = [*(json.loads(path.read_text()) if path.exists() else ()), run]
    path.write_text(json.dumps(runs, indent=1) + "\n")
    return path


def latest(folder: Path = HISTORY) -> list[Record]:
    """Return the last run on each kind of processor."""
    return [json.loads(path.read_text())[-1] for path in sorted(folder.glob("*.json"))]


def tables(runs: Sequence[Record]) -> str:
    """Return Markdown tables with a column for each run."""
    machines = [
        f"- {Machine(**run['machine'])};\n  {run['date']}, commit {run['commit']}, "
        + ", ".join(f"{name} {found}" for name, found in run["versions"].items())
        for run in runs
    ]
    return "\n\n".join(
        (
            "\n".join(machines),
            _table("steps, PyTorch's better layout = 1 (compiled ms)", runs, _against),
            _table("GFLOP/s of a step (share of the peak)", runs, _speed),
        )
    )


def _table(title: str, runs: Sequence[Record], cell: Callable[[Record], str]) -> str:
    labels = list(dict.fromkeys(label for run in runs for label in run["models"]))
    rows = [[title, *(run["machine"]["processor"] for run in runs)], ["---"] * (len(runs) + 1)]
    rows += [[label, *(cell(r) if (r := run["models"].get(label)) else "-" for run in runs)] for label in labels]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def _against(found: Record) -> str:
    return f"{_text(found['against torch'], '.2f')} ({_three_digits(found['ms']['compiled'][1])})"


def _speed(found: Record) -> str:
    return f"{_text(found['GFLOP/s'], '.0f')} ({_text(found['of peak'], '.2f')})"


def milliseconds(quartiles: Sequence[float]) -> str:
    """Format the three quartiles of times as median (lower-upper)."""
    low, middle, high = map(_three_digits, quartiles)
    return f"{middle} ({low}-{high})"


def _three_digits(ms: float) -> str:
    return f"{ms:.3g}" if ms < 100 else f"{ms:,.0f}"


def _text(number: float | None, form: str) -> str:
    return "-" if number is None else format(number, form)


def write_page(page: Path = PAGE, folder: Path = HISTORY) -> None:
    """Replace the tables on the page by those of the history."""
    before, rest = page.read_text().split(BEGIN)
    page.write_text(f"{before}{BEGIN}\n{tables(latest(folder))}\n\n{END}{rest.split(END)[1]}")
