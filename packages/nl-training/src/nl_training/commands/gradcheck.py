"""The gradcheck command: verify each parameter's gradient on real images, and locate the node of a wrong one."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nl_models import Network
from nl_nodes import UserError
from nl_nodes.verify import Certificate, Verdict, first_wrong
from nl_training.config import build, cli
from nl_training.config.run_command import names_run, run_command
from nl_training.data import Dataset
from nl_training.paths import optional_output, program
from nl_training.training.progress_bar import CertificateBar
from nl_training.verification import certify_network, training_graph, twin
from nl_training.viz import plots

if TYPE_CHECKING:
    from nl_training.config.schema import Config

IMAGES = 8
COLORS = {"verified": "green", "failed": "bold red"}
HELP = """Verifies each parameter's gradient on real images against the complex step; exits with 1 if one is wrong.

  nl gradcheck model=vgg11 regularization=all    a model with its initial weights
  nl gradcheck run=ID                            a logged run's network with its best weights
  nl gradcheck run=latest device=gpu             the same, with gradients computed on another device

Prints a table and the node of a wrong gradient, and writes a figure to outputs/gradcheck."""


def main() -> None:
    """Check the config or the run of the command line; exit with code 1 if a gradient is wrong."""
    holds: list[bool] = []
    command = f"{program()} gradcheck {shlex.join(sys.argv[1:])}".strip()
    if names_run(sys.argv[1:]):
        run_command(
            lambda run_id, config, _: holds.append(gradcheck_run(run_id, config, command)), HELP, takes=("device",)
        )
    else:
        cli.main(lambda config, _: holds.append(gradcheck(config, command)))
    sys.exit(0 if all(holds) else 1)


def gradcheck(config: Config, command: str) -> bool:
    """Verify the gradients of a config's network on real images, print the verdicts and return whether all hold.

    Args:
        config: the config with the network, its device and its data.
        command: the command line, printed as the way to reproduce a failure.
    """
    data = build.dataset(config)
    net = build.network(config, data, build.device(config))
    return check(net, data, config.seed, command)


def gradcheck_run(run_id: str, config: Config, command: str) -> bool:
    """Verify the gradients of a logged run's network: its config, its data, its best weights."""
    from nl_training.config.resolve import resolve
    from nl_training.tracking.logged_run import open_run

    run = open_run(run_id, config.tracking, build.device(config))
    logged = resolve(run.config)
    data = build.dataset(logged)
    if data.input_shape != run.net.input_shape:
        raise UserError(f"data={data.name} has images {data.input_shape} now; run {run_id} had {run.net.input_shape}")
    return check(run.net, data, logged.seed, command, run.run_id)


def check(net: Network, data: Dataset, seed: int, command: str, run_id: str = "") -> bool:
    """Verify a network's gradients on the first images of a data set; print a table, save a figure."""
    feeds = _images(data)
    console = Console()
    with CertificateBar(console) as bar:
        certificate = certify_network(net, feeds, progress=bar.advance, seed=seed)
    title = f"{net!r}: complex step on {IMAGES} images of {data.name}"
    console.print(_table(certificate, title))
    console.print(
        f"{len(certificate.tensors)} tensors, worst residual {certificate.worst:.1e}, "
        f"limit {certificate.tolerance:g}, {certificate.seconds:.1f} s",
        highlight=False,
    )
    name = run_id or f"{net.name}-{certificate.fingerprint[:12]}"
    with optional_output("picture and certificate", "gradcheck", name) as folder:
        certificate.save(folder / "certificate.json")
        plots.residuals(certificate, f"{net.name} {run_id}".strip()).savefig(folder / "residuals.png")
    if certificate.failed:
        print(failure(net, certificate, feeds, command))
    return not certificate.failed


def failure(net: Network, certificate: Certificate, feeds: Mapping[str, Any], command: str) -> str:
    """Describe a failure: each wrong tensor with both values, and the wrong node nearest to the output."""
    lines = []
    for verdict in certificate.tensors:
        if not verdict.holds:
            lines += _describe(verdict)
    fault = first_wrong(training_graph(twin(net), len(feeds["x"])), feeds, certificate.seed)
    if fault is not None:
        return "\n".join([*lines, fault.report(command)])
    hint = "each node's own backward is right: check how gradients are added up, or a node at its kink"
    return "\n".join([*lines, hint, f"  reproduce  {command}"])


def _describe(verdict: Verdict) -> list[str]:
    head = f"{verdict.verdict}: the gradient of {verdict.name} {verdict.shape}"
    return [
        f"{head}, in a random direction",
        f"  analytic   {verdict.analytic:.17g}  (backward)",
        f"  numerical  {verdict.numeric:.17g}  (complex step)",
    ]


def _images(data: Dataset) -> dict[str, Any]:
    """Return the first training images, repeated if there are too few."""
    index = np.arange(IMAGES) % len(data.train)
    return {"x": data.train.x[index].astype(np.float64), "t": data.train.t[index]}


def _table(certificate: Certificate, title: str) -> Table:
    table = Table("tensor", "shape", "largest gradient", "residual", "verdict", title=escape(title))
    for v in certificate.tensors:
        color = COLORS.get(v.verdict, "yellow")
        verdict = f"[{color}]{v.verdict}[/]"
        table.add_row(v.name, str(v.shape), f"{v.size:.2e}", f"{v.residual:.1e}", verdict)
    return table
