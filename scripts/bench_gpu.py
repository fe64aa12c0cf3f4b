"""Training passes on a GPU: `python scripts/bench_gpu.py` compares, captures, times, and writes a table and JSON.

It needs no network, and begins no measurement after `--seconds`; `scripts/bench_gpu_torch.py` then measures PyTorch.
`--prepare sm_90` compiles the kernels into the cache folder on a machine without a GPU, so that the time on the GPU is
for measuring.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy as np
import roofline
from kernel_counts import step_counts
from rich.console import Console
from rich.table import Table

import nl_models
from nl_layers.labels import checked_labels
from nl_nodes import Device, UserError
from nl_nodes.compiler import CompileSpec
from nl_nodes.compiler.plan import Plan, compile_graph
from nl_nodes.runtime import Executor
from nl_nodes.runtime.cuda import CudaExecutor
from nl_nodes.runtime.cuda.cublaslt import WORKSPACE
from nl_nodes.runtime.cuda.cupy_card import machine_codes
from nl_nodes.runtime.cuda.products import describe

OUTPUT = Path(__file__).resolve().parent.parent / "outputs" / "bench"
RESULTS = OUTPUT / "gpu.json"
FORMS = {
    **{name: (name, False) for name in ("mlp", "cnn8", "vgg16", "cnn3", "vgg11")},
    **{f"{name} BN": (name, True) for name in ("vgg16", "cnn8")},
}
"""The models, by importance, plain and with batch norm."""
SLOWEST = 12
EMPTY_KERNELS = (100, 1000)
REPEATS = 5

Results = dict[str, Any]
Log = Callable[[str], None]


def network(form: str, device: Device, **options: Any) -> nl_models.Network:
    """Return a network of one of `FORMS`."""
    name, batch_norm = FORMS[form]
    return nl_models.build(name, device=device, batch_norm=batch_norm, **options)


def feeds_for(net: nl_models.Network, batch: int) -> Results:
    """Return random images and labels."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, *net.input_shape)).astype(net.device.dtype)
    t = rng.integers(0, net.classes, batch)
    return {"x": x, "t": checked_labels(net.name, t, (batch, net.classes))}


def compare(net: nl_models.Network, plan: Plan, feeds: Results, **options: Any) -> Results:
    """Compare a pass with NumPy's: a relative difference of the loss and of the whole gradient; and two replays."""
    form = next(form for form, (name, bn) in FORMS.items() if (name, bn) == (net.spec["name"], net.spec["batch_norm"]))
    host = network(form, Device(dtype=net.device.dtype), **options)
    host.load_state_dict(net.state_dict())
    expected = host.step(feeds["x"], feeds["t"])
    replays = []
    for _ in range(2):
        loss, _ = plan.run(feeds, 0)
        replays.append(net.device.host(net._grads.flat).copy())
    error = np.linalg.norm(replays[0] - expected.grads.flat) / np.linalg.norm(expected.grads.flat)
    wanted = float(expected.loss)
    return {
        "loss": abs(float(net.device.host(loss)) - wanted) / abs(wanted),
        "gradient": float(error),
        "replays equal": bool(np.array_equal(*replays)),
    }


def memory(net: nl_models.Network, plan: Plan) -> float:
    """Return the MB of the GPU's memory that a pass takes: plan, parameters, gradients, cublasLt's workspace."""
    return float(plan.size + net.params.flat.nbytes + net._grads.flat.nbytes + WORKSPACE) / 1e6


def times(executor: CudaExecutor, loaded: Any) -> Results:
    """Return milliseconds of a pass as one graph, and launched call by call."""
    card = executor.card
    with card.lock, card.enqueuing():
        one_by_one = median(card.seconds(partial(executor._enqueue, loaded)) for _ in range(REPEATS))
        if loaded.graph is None:
            return {"graph ms": None, "one by one ms": one_by_one * 1e3}
        graph = median(card.seconds(partial(card.replay, loaded.graph)) for _ in range(REPEATS))
    return {"graph ms": graph * 1e3, "one by one ms": one_by_one * 1e3}


def slowest(executor: CudaExecutor, plan: Plan, loaded: Any) -> list[Results]:
    """Return the slowest calls: microseconds, and TFLOP/s of products or TB/s of the arrays that kernels touch."""
    rows = []
    with executor.card.lock, executor.card.enqueuing():
        for (name, args), (node, direction), call in zip(plan.calls[0], plan.owners[0], loaded.calls, strict=True):
            seconds = executor.card.seconds(call)
            row: Results = {"call": f"{name} {direction} of {node!r} {getattr(node, 'path', '')}", "us": seconds * 1e6}
            if name == "matmul":
                row["TFLOP/s"] = 2 * args[0].shape[-1] * args[2].size / seconds / 1e12
            else:
                row["TB/s"] = sum(array.nbytes for array in args[1:]) / seconds / 1e12
            rows.append(row)
    return sorted(rows, key=lambda row: -row["us"])[:SLOWEST]


def algorithms(executor: CudaExecutor, plan: Plan) -> list[Results]:
    """Return the time of cublasLt's first offer and of the best one for each product."""
    card, found = executor.card, dict[str, Results]()
    with card.lock, card.enqueuing():
        for name, args in plan.calls[0]:
            if name != "matmul":
                continue
            a, b, out = (card.address(array) for array in args)
            product, operands = describe(args[0], args[1], args[2], addresses=(a, b, out), tf32=executor.tf32)
            if product.key in found:
                found[product.key]["calls"] += 1
                continue
            matmul = executor._matmuls[product.key]
            offers = card.lt.offers(matmul)
            each = [card.seconds(partial(card.multiply, matmul, offer, operands)) * 1e6 for offer in offers]
            rate = product.flops / min(each) / 1e6
            found[product.key] = {
                "product": product.key, "calls": 1, "first us": each[0], "best us": min(each), "offers": len(each),
                "best TFLOP/s": rate,
            }  # fmt: skip
    return sorted(found.values(), key=lambda row: -row["best us"] * row["calls"])[:SLOWEST]


def empty_graphs(card: Any) -> Results:
    """Return microseconds a kernel of graphs of kernels that do nothing."""
    text = 'extern "C" __global__ void nothing(float *p0)\n{\n}\n'
    source = SimpleNamespace(name="nothing", text=text, blocks=(1, 1), threads=32, random=False, prelude="")
    found = {}
    with card.lock, card.enqueuing():
        memory = card.zeros(64)
        function = card.load([source])["nothing"]

        def run(count: int) -> None:
            for _ in range(count):
                card.launch(function, (1, 1), 32, [memory])

        run(1)
        for count in EMPTY_KERNELS:
            graph = card.capture(partial(run, count))
            found[str(count)] = card.seconds(partial(card.replay, graph)) / count * 1e6
    return found


class Clock:
    """What is left of the time, and where results are written as they come."""

    def __init__(self, seconds: float, path: Path, results: Results) -> None:
        self._end, self._path, self._results = time.monotonic() + seconds, path, results

    @contextmanager
    def section(self, name: str, needs: float) -> Iterator[bool]:
        """Run a section if `needs` seconds are left; an error is written down and the next section runs."""
        left = self._end - time.monotonic()
        if left < needs:
            self._results.setdefault("left out", []).append(name)
        try:
            yield left >= needs
        except Exception as error:  # whatever it is, the others are still to be measured
            self._results.setdefault("failed", {})[name] = f"{type(error).__name__}: {error}".splitlines()[0]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(self._results, indent=1))


def measure(
    device: Device,
    forms: list[str],
    batch: int,
    clock: Clock,
    results: Results,
    sizes: Mapping[str, int] | None = None,
    **options: Any,
) -> None:
    """Measure what matters most first; `sizes` are those of `roofline.measure`, `options` those of the networks."""
    executor = device.executor
    assert isinstance(executor, CudaExecutor)
    results["card"] = {"kind": executor.card.kind, "cublasLt": executor.card.lt.version}
    speed = None
    with clock.section("speed of the GPU", 10) as enough:
        if enough:
            speed = roofline.measure(executor.card, **(sizes or {}))
            results["speed"] = asdict(speed)
    plans: dict[str, tuple[Plan, Results]] = {}
    for form in forms:
        with clock.section(form, 60) as enough:
            if not enough:
                continue
            net = network(form, device, **options)
            feeds, begun = feeds_for(net, batch), time.monotonic()
            plan = net.plan(True, batch)
            row = results.setdefault("models", {}).setdefault(form, {"seconds to compile": time.monotonic() - begun})
            row |= compare(net, plan, feeds, **options)
            row |= {"launches": len(plan.calls[0]), "captured": plan._loaded.graph is not None, "MB": memory(net, plan)}
            row |= times(executor, plan._loaded)
            plans[form] = plan, row
            if speed is not None:
                counts = step_counts(network(form, Device(threads=1), **options), batch)
                row |= {"bound ms": speed.bound(counts) * 1e3, "TF32 bound ms": speed.bound(counts, tf32=True) * 1e3}
    with clock.section("empty kernels", 5) as enough:
        if enough:
            results["us an empty kernel"] = empty_graphs(executor.card)
    other = CudaExecutor(executor.card, tf32=True)
    for form, (plan, row) in plans.items():
        with clock.section(f"{form} details", 20) as enough:
            if not enough:
                continue
            row["tf32"] = times(other, other.load(plan.calls))
            row["slowest"] = slowest(executor, plan, plan._loaded)
            row["algorithms"] = algorithms(executor, plan)


class Compiling(Executor):
    """An executor that compiles kernels for an architecture and runs nothing."""

    chunked, fused, checks = False, True, True

    def __init__(self, architecture: str) -> None:
        super().__init__()
        self._architecture = architecture

    def load(self, calls: Any) -> None:
        """Compile all kernels of a plan into the cache folder, under the name that a GPU looks for."""
        from cupy.cuda import nvrtc

        sources = {args[0].name: args[0] for name, args in calls[0] if name == "kernel"}
        machine_codes(nvrtc, list(sources.values()), self._architecture)


def prepare(architecture: str, forms: list[str], batch: int, log: Log) -> None:
    """Compile the kernels of all forms into the cache folder; no GPU is needed."""
    for form in forms:
        begun, net = time.monotonic(), network(form, Device(threads=1))
        shapes = {"x": ((batch, *net.input_shape), net.device.dtype), "t": ((batch,), "int64")}
        spec = CompileSpec(shapes, frozenset(shapes), net._grads)
        compile_graph(net.wire(batch, train=True), spec, Compiling(architecture))
        log(f"{form}: {time.monotonic() - begun:.0f} s")


COLUMNS = (
    "seconds to compile", "loss", "gradient", "replays equal", "captured", "launches", "MB", "one by one ms",
    "graph ms", "bound ms", "TF32 graph ms", "TF32 bound ms",
)  # fmt: skip


def table(results: Results) -> Table:
    """Return the models' rows as a table."""
    found = Table("model", *COLUMNS)
    for form, row in results.get("models", {}).items():
        row = {**row, "TF32 graph ms": row.get("tf32", {}).get("graph ms")}
        cells = [row.get(column) for column in COLUMNS]
        found.add_row(form, *(f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in cells))
    return found


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(FORMS), help=f"comma-separated, of {', '.join(FORMS)}")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=170, help="after which no measurement begins")
    parser.add_argument("--prepare", metavar="ARCHITECTURE", help="only compile kernels, such as for sm_90")
    options = parser.parse_args()
    console, forms = Console(), options.models.split(",")
    if options.prepare:
        prepare(options.prepare, forms, options.batch, console.print)
        return
    results: Results = {}
    try:
        device = Device("gpu")
    except UserError as error:
        parser.exit(1, f"{error}\n")
    measure(device, forms, options.batch, Clock(options.seconds, RESULTS, results), results)
    console.print(table(results))
    console.print_json(data=results)


if __name__ == "__main__":
    main()
