"""Time and memory of a training step, compared with PyTorch: `python scripts/bench.py --models cnn8`.

PyTorch is optional (`pip install torch`). The implementations alternate within one run. Each rests for 20 ms and makes
one untimed step before the timed ones, as threads that still spin after a step slow down the next implementation. A
time is the mean of consecutive steps over 50 ms; reported are the median and the interquartile range. Nothing else
should run on the machine.

A step's operations are those of its plan's calls; the machine's peak is measured on large matrix products. With
`--record` the run goes to docs/performance, and into the tables of docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bench_against
import bench_history
import numpy as np
from bench_machine import Machine, this_machine
from rich.console import Console
from rich.table import Table

import nl_models
from nl_layers.optimizers import SGD
from nl_nodes import Device
from nl_nodes.compiler import Plan
from nl_nodes.compiler.profiler import cost

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OUTPUT = Path(__file__).resolve().parent.parent / "outputs" / "bench"
BATCH = 128
COUNTED = 32  # batch size of the counts in tests/unit/models/test_counts.py
FORMS = {"no": [False], "yes": [True], "both": [False, True]}
LEARNING_RATE = 0.01
COLORS = {"compiled": "#1f6f8b", "torch NCHW": "#d9a066", "torch channels_last": "#b5651d", "reference": "#9a9a9a"}
SAMPLE_SECONDS = 0.05  # a time is the mean of consecutive steps over this long


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="mlp,cnn3,cnn8,vgg11,vgg16,resnet20,resnet18", help="comma-separated")
    parser.add_argument("--batch-norm", choices=("no", "yes", "both"), default="both")
    parser.add_argument("--repeats", type=int, default=15, help="samples of each")
    parser.add_argument("--workers", default="auto", help="threads, processes or auto")
    parser.add_argument("--reference", action="store_true", help="time the reference execution too")
    parser.add_argument("--memory", action="store_true", help="measure peak memory instead, each in its own process")
    parser.add_argument("--profile", action="store_true", help="print each node's cost instead (needs nl-training)")
    parser.add_argument("--counts", action="store_true", help="count calls and bytes of a step instead, at batch 32")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="gpu: --counts of kernels, batch 128")
    parser.add_argument("--only", choices=("ours",), help="leave out PyTorch")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="with --only ours: compare another checkout")
    parser.add_argument("--record", action="store_true", help="add the run to docs/performance and docs/performance.md")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.against and not options.only:
        parser.error("--against compares this project's steps alone: add --only ours")
    options.torch = has_torch() and not options.only
    whole = (options.models, options.batch_norm) == (parser.get_default("models"), "both")
    if options.record and not (options.torch and whole):
        parser.error("--record takes all models, with and without batch norm, beside PyTorch (pip install torch)")
    if options.device == "gpu" and not options.counts:
        parser.error("--device gpu is for --counts; scripts/bench_gpu.py measures a GPU")
    return options


def forms(name: str, options: argparse.Namespace) -> list[bool]:
    """Return whether to take a model with batch norm, without, or both; a residual network always has it."""
    return [False] if name.startswith("resnet") else FORMS[options.batch_norm]


def images(net: nl_models.Network) -> tuple[Any, Any]:
    """Return a random batch of images and labels for a network."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((BATCH, *net.input_shape)).astype(np.float32), rng.integers(0, net.classes, BATCH)


def ours(name: str, batch_norm: bool, **device: Any) -> Callable[[], None]:
    """Return a training step of this project: forward, loss, backward, SGD."""
    net = nl_models.build(name, batch_norm=batch_norm, device=Device(**device))
    optimizer = SGD(LEARNING_RATE)
    x, t = images(net)

    def step() -> None:
        optimizer.update(net.params, net.step(x, t).grads)

    return step


def theirs(name: str, batch_norm: bool, layout: str) -> Callable[[], None]:
    """Return the same training step in PyTorch."""
    import torch
    from torch_peer import peer

    net = nl_models.build(name, batch_norm=batch_norm, device=Device(compile=False))
    model = peer(net, layout)
    memory = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    x, t = (torch.from_numpy(a) for a in images(net))
    x = x.to(memory_format=memory)
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    loss = torch.nn.CrossEntropyLoss()

    def step() -> None:
        optimizer.zero_grad()
        loss(model(x), t).backward()
        optimizer.step()

    return step


def contenders(name: str, batch_norm: bool, options: argparse.Namespace) -> dict[str, Callable[[], None]]:
    """Return the training steps to compare, by name."""
    steps = {"compiled": ours(name, batch_norm, workers=options.workers)}
    if options.reference:
        steps["reference"] = ours(name, batch_norm, compile=False)
    for layout in ("NCHW", "channels_last") if options.torch else ():
        if not (name == "mlp" and layout == "channels_last"):
            steps[f"torch {layout}"] = theirs(name, batch_norm, layout)
    return steps


def has_torch() -> bool:
    """Return whether PyTorch is installed; without importing it, as `alone` would measure that."""
    return find_spec("torch") is not None


def measure(steps: dict[str, Callable[[], None]], repeats: int) -> dict[str, list[float]]:
    """Return milliseconds of each step, measured in turn."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            time.sleep(0.02)
            step()
            times[name].append(_time(step) * 1e3)
    return times


def _time(step: Callable[[], None]) -> float:
    """Return the mean seconds of consecutive steps."""
    start, count = time.perf_counter(), 0
    while (seconds := time.perf_counter() - start) < SAMPLE_SECONDS:
        step()
        count += 1
    return seconds / count


def speed(options: argparse.Namespace, machine: Machine) -> tuple[dict[str, dict[str, list[float]]], dict[str, Any]]:
    """Measure and print the times of every model; return them, and each model's row of a record."""
    print(machine)
    table = Table(
        "model",
        "compiled ms",
        "reference ms",
        "torch NCHW",
        "torch channels_last",
        "against torch",
        "GFLOP/s",
        "of peak",
    )
    results, rows = {}, {}
    for label, name, batch_norm in cases(options):
        gflop = step_costs(name, batch_norm, options.workers, BATCH)[0] / 1e9
        times = results[label] = measure(contenders(name, batch_norm, options), options.repeats)
        row = rows[label] = bench_history.row(times, gflop, machine.peak)
        kinds = ("compiled", "reference", "torch NCHW", "torch channels_last")
        cells = [bench_history.milliseconds(row["ms"][kind]) if kind in row["ms"] else "-" for kind in kinds]
        table.add_row(label, *cells, str(row["against torch"]), f"{row['GFLOP/s']:.0f}", f"{row['of peak']:.2f}")
        print(f"{label}: {json.dumps(row)}")
    Console().print(table)
    return results, rows


def cases(options: argparse.Namespace) -> Iterator[tuple[str, str, bool]]:
    """Yield label, model and whether it has batch norm."""
    for name in options.models.split(","):
        for batch_norm in forms(name, options):
            yield f"{name} BN" if batch_norm else name, name, batch_norm


def step_costs(name: str, batch_norm: bool, workers: str, batch: int) -> tuple[float, float, Plan]:
    """Return the floating-point operations and bytes of a compiled step's calls, and its plan."""
    plan = nl_models.build(name, batch_norm=batch_norm, device=Device(workers=workers)).plan(True, batch)
    flops, moved = map(sum, zip(*(cost(call) for calls in plan.calls for call in calls), strict=True))
    return flops, moved, plan


def compare(options: argparse.Namespace) -> dict[str, list[list[float]]]:
    """Measure and print the steps of this checkout beside another's."""
    table = Table("model", "this checkout ms", "the other ms", "the other / this (interquartile range)")
    results = {}
    for label, name, batch_norm in cases(options):
        served = ["--serve", f"{name},{batch_norm}", "--workers", options.workers]
        times = bench_against.pairs(options.against, served, options.repeats)
        results[label] = times.tolist()
        here, other, (low, middle, high) = bench_against.summary(times)
        table.add_row(label, f"{here:.3g}", f"{other:.3g}", f"{middle:.3f} ({low:.3f}-{high:.3f})")
        print(f"{label}: {middle:.3f} ({low:.3f}-{high:.3f})", flush=True)
    Console().print(table)
    return results


def serve(served: str, workers: str) -> None:
    """Time this project's step for each line of the standard input."""
    name, batch_norm = served.split(",")
    step = ours(name, batch_norm == "True", workers=workers)

    def sample() -> float:
        step()
        return _time(step) * 1e3

    bench_against.serve(sample)


def plot(results: dict[str, dict[str, list[float]]]) -> Figure:
    """Plot the speed of each, relative to the faster of PyTorch's layouts."""
    from matplotlib.figure import Figure  # imported here, as `alone` would measure its 28 MB

    figure = Figure(figsize=(max(7.2, 0.8 * len(results)), 3.4), layout="constrained")
    axes = figure.subplots()
    labels = [key for key in COLORS if any(key in times for times in results.values())]
    for number, label in enumerate(labels):
        at = [i + (number - (len(labels) - 1) / 2) * 0.8 / len(labels) for i in range(len(results))]
        axes.bar(
            at, [_rate(times, label) for times in results.values()], 0.8 / len(labels), color=COLORS[label], label=label
        )
    axes.axhline(1, color="#333333", linewidth=0.8)
    axes.set_xticks(range(len(results)), [name.replace(" ", "\n") for name in results])
    axes.set_ylabel("steps, PyTorch's better layout = 1")
    axes.legend(ncols=len(labels), loc="upper left", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(y=0.15)
    return figure


def _rate(times: dict[str, list[float]], label: str) -> float:
    best = min(float(np.median(values)) for key, values in times.items() if key.startswith("torch"))
    return best / float(np.median(times[label])) if label in times else 0.0


def memory(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Measure and print each model's peak memory in MB: proportional set size of the process and its children."""
    console = Console()
    table = Table("model", "compiled MB", "torch NCHW", "torch channels_last", "share of the smaller")
    results: dict[str, dict[str, float]] = {}
    for name in options.models.split(","):
        for batch_norm in forms(name, options):
            label = f"{name} BN" if batch_norm else name
            kinds = ["compiled", *(("torch NCHW", "torch channels_last") if options.torch else ())]
            row = results[label] = {}
            for kind in kinds:
                command = [
                    sys.executable,
                    __file__,
                    "--alone",
                    f"{kind},{name},{batch_norm}",
                    "--workers",
                    options.workers,
                ]
                row[kind] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            peers = [row[kind] for kind in kinds[1:]]
            share = f"{row['compiled'] / min(peers):.2f}" if peers else "-"
            table.add_row(
                label,
                *(f"{row[k]:.0f}" if k in row else "-" for k in ("compiled", "torch NCHW", "torch channels_last")),
                share,
            )
    console.print(table)
    return results


def alone(contender: str, workers: str) -> None:
    """Run some steps of one implementation and print this process's peak memory."""
    kind, name, batch_norm = contender.split(",")
    norm = batch_norm == "True"
    step = ours(name, norm, workers=workers) if kind == "compiled" else theirs(name, norm, kind.removeprefix("torch "))
    peak = 0.0
    for _ in range(4):
        step()
        peak = max(peak, _set_size())
    print(peak)


def profile(options: argparse.Namespace) -> None:
    """Print the cost of each node, and write table and figures to outputs/bench."""
    from nl_training.viz.profile import artifacts

    for name in options.models.split(","):
        for batch_norm in forms(name, options):
            for compiled in (True, False) if options.reference else (True,):
                device = Device(workers=options.workers, compile=compiled)
                net = nl_models.build(name, batch_norm=batch_norm, device=device)
                folder = OUTPUT / "-".join([name, *["bn"] * batch_norm, *["reference"] * (not compiled)])
                for file, content in artifacts(net, *images(net)).items():
                    path = folder / file
                    path.parent.mkdir(parents=True, exist_ok=True)
                    if isinstance(content, str):
                        path.write_text(content)
                    else:
                        content.savefig(path)
                print((folder / "profile/profile.txt").read_text())
                print(f"table and figures in {folder / 'profile'}")


def counts(options: argparse.Namespace) -> None:
    """Print counts of a compiled step: calls, memory, operations and bytes."""
    table = Table("model", "calls of a worker", "arena MB", "GFLOP", "GB read and written", title=f"{COUNTED} images")
    for label, name, batch_norm in cases(options):
        flops, moved, plan = step_costs(name, batch_norm, options.workers, COUNTED)
        calls = " + ".join(str(len(calls)) for calls in plan.calls)
        table.add_row(label, calls, f"{plan.size / 1e6:.2f}", f"{flops / 1e9:.3f}", f"{moved / 1e9:.3f}")
    Console().print(table)


def gpu_counts(options: argparse.Namespace) -> None:
    """Print counts of a step on a GPU: launches, bytes and operations; no GPU is needed."""
    import kernel_counts  # imported here, as `alone` would measure the compiler of kernels

    table = Table(*kernel_counts.COLUMNS, title=f"{BATCH} images")
    for name in options.models.split(","):
        for batch_norm in forms(name, options):
            net = nl_models.build(name, batch_norm=batch_norm, device=Device(threads=1))
            counts = kernel_counts.step_counts(net, BATCH), kernel_counts.update_counts(net, SGD(LEARNING_RATE))
            table.add_row(*kernel_counts.row(f"{name} BN" if batch_norm else name, *counts))
    Console().print(table)


def _set_size() -> float:
    children = subprocess.run(["pgrep", "-P", str(os.getpid())], capture_output=True, text=True, check=False).stdout
    total = 0
    for process in [str(os.getpid()), *children.split()]:
        rollup = Path(f"/proc/{process}/smaps_rollup")
        if rollup.exists():
            total += next(int(line.split()[1]) for line in rollup.read_text().splitlines() if line.startswith("Pss:"))
    return total / 1e3


def main() -> None:
    """Measure, print, and write the results to outputs/bench."""
    options = arguments()
    if options.alone or options.serve:
        alone(options.alone, options.workers) if options.alone else serve(options.serve, options.workers)
        return
    OUTPUT.mkdir(parents=True, exist_ok=True)
    if options.profile:
        profile(options)
        return
    if options.counts:
        (gpu_counts if options.device == "gpu" else counts)(options)
        return
    if options.memory or options.against:
        kind, results = ("memory", memory(options)) if options.memory else ("against", compare(options))
        _write(kind, results)
        return
    machine = this_machine()
    times, rows = speed(options, machine)
    _write("speed", times)
    figures = [OUTPUT] if options.torch else []
    if options.record:
        print(f"record in {bench_history.append(bench_history.record(machine, rows))}")
        bench_history.write_page()
        figures += [bench_history.HISTORY] if figures else []
    for folder in figures:
        plot(times).savefig(folder / "speed.png", dpi=110)
        print(f"figure in {folder / 'speed.png'}")


def _write(kind: str, results: object) -> None:
    path = OUTPUT / f"{kind}.json"
    path.write_text(json.dumps(results, indent=1))
    print(f"results in {path}")


if __name__ == "__main__":
    main()
