"""Time to 0.98 test accuracy on MNIST, compared with PyTorch: `python scripts/bench_accuracy.py`.

Both start with the same weights, take the same batches, and are evaluated on all test images, outside the measured
time. They alternate after each batch, so that other load on the machine slows both equally. Needs MNIST, and PyTorch
except with `--single`. `--device gpu` trains this project's side on a GPU, with `--single`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import nl_models
from nl_layers.optimizers import Adam
from nl_layers.schedules import Constant, Cosine
from nl_nodes import Device, UserError
from nl_training.data import load
from nl_training.data.batches import batches, epoch_order

OUTPUT = Path(__file__).resolve().parent.parent / "outputs" / "bench"
BATCH, RATE, TARGET = 128, 0.001, 0.98
EPOCHS = 20
COLORS = {"compiled": "#c44e52", "PyTorch": "#4c72b0"}


@dataclass
class Runner:
    """One of the two implementations, with its results.

    Attributes:
        step: train on images and labels with a learning rate.
        predict: return the classes of images.
        seconds: training time so far.
        curve: (step, seconds, accuracy) of each evaluation.
    """

    step: Callable[[Any, Any, float], None]
    predict: Callable[[Any], Any]
    seconds: float = 0.0
    curve: list[tuple[int, float, float]] = field(default_factory=list)

    @property
    def target(self) -> tuple[int, float, float] | None:
        """The first evaluation that reached the target."""
        return next((point for point in self.curve if point[2] >= TARGET), None)


def ours(net: nl_models.Network) -> Runner:
    """Return the runner of this project's compiled network."""
    optimizer = Adam(RATE)

    def step(x: Any, t: Any, rate: float) -> None:
        optimizer.lr = rate
        if net.device.card is None:
            optimizer.update(net.params, net.step(x, t).grads)
        else:
            net.enqueue(optimizer, x, t)

    return Runner(step, lambda x: net.device.host(net.predict(x).argmax(axis=1)))


def theirs(net: nl_models.Network) -> Runner:
    """Return the runner of the same network in PyTorch."""
    import torch
    from torch_peer import peer

    layout = "NCHW" if net.name == "mlp" else "channels_last"
    memory = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    model = peer(net, layout)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    loss = torch.nn.CrossEntropyLoss()

    def step(x: Any, t: Any, rate: float) -> None:
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        loss(model(torch.from_numpy(x).to(memory_format=memory)), torch.from_numpy(t)).backward()
        optimizer.step()

    def predict(x: Any) -> Any:
        model.eval()
        with torch.no_grad():
            classes = [model(batch.to(memory_format=memory)).argmax(1) for batch in torch.from_numpy(x).split(250)]
        model.train()
        return torch.cat(classes).numpy()

    return Runner(step, predict)


def rates(name: str, steps: int) -> Iterator[float]:
    """Yield the learning rate of each step; the MLP reaches 0.98 only with a decaying one."""
    schedule = Cosine() if name == "mlp" else Constant()
    for number in range(EPOCHS * steps):
        yield RATE * schedule.factor(number / steps, EPOCHS)


def race(name: str, data: Any, seed: int, options: argparse.Namespace) -> dict[str, Runner]:
    """Train both until they have reached the target."""
    net = nl_models.build(name, batch_norm=name == "mlp", seed=seed, device=Device(options.device))
    runners = {"PyTorch": theirs(net)} if not options.single else {}
    runners["compiled"] = ours(net)
    steps = -(-len(data.train) // BATCH)
    each, number = rates(name, steps), 0
    with Progress(transient=True) as bar:
        task = bar.add_task(name, total=EPOCHS * steps)
        for epoch in range(1, EPOCHS + 1):
            for x, t in batches(data.train, BATCH, epoch_order(len(data.train), seed, epoch)):
                number, rate = number + 1, next(each)
                for runner in runners.values():
                    start = time.perf_counter()
                    runner.step(x, t, rate)
                    runner.seconds += time.perf_counter() - start
                bar.update(task, completed=number)
                if number % options.every == 0 or number % steps == 0:
                    for runner in runners.values():
                        accuracy = float((runner.predict(data.test.x) == data.test.t).mean())
                        runner.curve.append((number, runner.seconds, accuracy))
                    if all(runner.target for runner in runners.values()):
                        return runners
    return runners


def plot(results: dict[str, list[dict[str, Runner]]]) -> Figure:
    """Plot accuracy over steps above and over seconds below, a column per model."""
    figure = Figure(figsize=(3.4 * len(results), 5.6), layout="constrained")
    rows = figure.subplots(2, len(results), squeeze=False, sharey=True)
    for column, (name, races) in enumerate(results.items()):
        for row, (axes, unit) in enumerate(zip(rows[:, column], ("steps", "seconds"), strict=True)):
            for number, runners in enumerate(races):
                for label, runner in runners.items():
                    points = [(point[row], point[2]) for point in runner.curve]
                    axes.plot(*zip(*points, strict=True), color=COLORS[label], label=None if number else label)
            axes.axhline(TARGET, color="#8c8c8c", linewidth=0.8, linestyle=":")
            axes.set(ylim=(0.9, 1), xlabel=unit)
        rows[0, column].set_title(name)
    rows[0, 0].set_ylabel("test accuracy")
    rows[1, 0].set_ylabel("test accuracy")
    rows[0, 0].legend(loc="lower right")
    return figure


def main() -> bool:
    """Train, print a table, and write curves and a figure to outputs/bench; return whether all reached the target."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="mlp,cnn3,cnn8", help="comma-separated; vgg11 and vgg16 take half an hour")
    parser.add_argument("--data", default=None, help="folder with the four MNIST files; default: download them")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds, from 0")
    parser.add_argument("--every", type=int, default=70, help="steps between two evaluations")
    parser.add_argument("--single", action="store_true", help="train without PyTorch")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    options = parser.parse_args()
    if options.device == "gpu" and not options.single:
        parser.error("--device gpu needs --single; scripts/bench_gpu_torch.py compares a GPU with PyTorch")
    try:
        Device(options.device)
    except UserError as error:
        parser.exit(1, f"{error}\n")
    data = load("mnist", root=options.data)
    table = Table("model", "seed", "steps", "seconds", "PyTorch: steps", "seconds")
    results: dict[str, list[dict[str, Runner]]] = {}
    for name in options.models.split(","):
        for seed in range(options.seeds):
            runners = race(name, data, seed, options)
            results.setdefault(name, []).append(runners)
            cells = []
            for label in ("compiled", "PyTorch"):
                target = runners[label].target if label in runners else None
                cells += [f"{target[0]:,}", f"{target[1]:.1f}"] if target else ["-", "-"]
            table.add_row(name, str(seed), *cells)
            print(name, seed, *cells, flush=True)
    Console().print(table)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    curves = {name: [{k: r.curve for k, r in runners.items()} for runners in races] for name, races in results.items()}
    (OUTPUT / "accuracy.json").write_text(json.dumps(curves))
    plot(results).savefig(OUTPUT / "accuracy.png", dpi=110)
    print(f"curves and figure in {OUTPUT}")
    return all(runner.target for races in results.values() for runners in races for runner in runners.values())


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
