"""PyTorch's training passes on the same GPU: `python scripts/bench_gpu_torch.py`, after `scripts/bench_gpu.py`.

Eager in both layouts; then compiled with CUDA graphs, in the layout that was faster; each with TF32 off and on. It
begins no measurement after `--seconds`, and writes each to outputs/bench/gpu_torch.json as soon as it is there.
"""

from __future__ import annotations

import argparse
import json
from math import inf
from typing import Any

import torch
from bench_gpu import FORMS, OUTPUT, RESULTS, Clock, Results, feeds_for, network
from rich.console import Console
from rich.table import Table
from torch_step import EAGER, LAYOUTS, MODES, Setting, measure

from nl_nodes import Device

SECONDS = {EAGER: 5, "reduce-overhead": 40, "max-autotune": 60}
"""What a measurement may take; one is left out where there is less time."""


def settings(form: str, mode: str, found: Results) -> list[Setting]:
    """Return how to run a model: eager in each layout, compiled in the one that was faster; TF32 off and on."""
    layouts = LAYOUTS[:1] if FORMS[form][0] == "mlp" else LAYOUTS
    if mode == EAGER:
        return [Setting(layout, tf32) for tf32 in (False, True) for layout in layouts]
    return [Setting(_faster(layouts, tf32, found), tf32, mode) for tf32 in (False, True)]


def _faster(layouts: tuple[str, ...], tf32: bool, found: Results) -> str:
    times = {layout: found.get(str(Setting(layout, tf32)), {}).get("ms", inf) for layout in layouts}
    return min(times, key=times.__getitem__)


def compare(forms: list[str], batch: int, clock: Clock, results: Results, device: str = "cuda", **options: Any) -> None:
    """Measure eager passes of all models, then compiled ones; `options` are those of the networks."""
    models = results.setdefault("models", {form: {} for form in forms})
    for mode in MODES:
        for form in forms:
            net = network(form, Device(compile=False), **options)
            feeds = feeds_for(net, batch)
            for setting in settings(form, mode, models[form]):
                with clock.section(f"{form}: {setting}", SECONDS[mode]) as enough:
                    if enough:
                        models[form][str(setting)] = measure(net, feeds["x"], feeds["t"], setting, device)


def table(results: Results, ours: Results) -> Table:
    """Return a row for each model and setting, and how many times its time is that of this project's graph."""
    found = Table("model", "PyTorch", "ms", "MB", "kernels", "ours ms", "ours MB", "ours launches", "PyTorch / ours")
    for form, rows in results["models"].items():
        row = ours.get("models", {}).get(form, {})
        for label, theirs in rows.items():
            graph = (row.get("tf32", {}) if "TF32" in label else row).get("graph ms")
            cells = [theirs["ms"], theirs["MB"], theirs["kernels"], graph, row.get("MB"), row.get("launches")]
            cells.append(theirs["ms"] / graph if graph else None)
            found.add_row(form, label, *map(_cell, cells))
    return found


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(FORMS), help=f"comma-separated, of {', '.join(FORMS)}")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=240, help="after which no measurement begins")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.exit(1, f"PyTorch {torch.__version__} finds no NVIDIA GPU here\n")
    results: Results = {"torch": torch.__version__}
    clock = Clock(options.seconds, OUTPUT / "gpu_torch.json", results)
    compare(options.models.split(","), options.batch, clock, results)
    Console(width=140).print(table(results, json.loads(RESULTS.read_text()) if RESULTS.exists() else {}))


if __name__ == "__main__":
    main()
