"""The draw command: the node graph of a layer, a config's network or a logged run, as SVG and HTML."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from nl_models import Network
from nl_nodes import UserError
from nl_training.config import build, cli
from nl_training.config.run_command import names_run, run_command
from nl_training.data import Dataset
from nl_training.paths import output_folder
from nl_training.training.progress_bar import CertificateBar
from nl_training.verification import verify
from nl_training.viz.graph import Diagram, capture_layer, capture_training, page, svg
from nl_training.viz.graph.svg import heading

if TYPE_CHECKING:
    from nl_training.config.schema import Config

HELP = """Draws the node graph next to its compiled form, as an SVG and as an interactive page: pan, zoom, open layers,
and click a node for its formula, shapes, memory, statistics of its values and gradients, the difference between its
gradient and a numerical one, its time forward and backward on one CPU thread, and its counterparts in the other graph.

  nl draw layer=Affine                       a single layer or loss
  nl draw model=vgg16 regularization=all     a model with its initial weights
  nl draw run=ID                             a logged run's network with its best weights

The files are written to outputs/drawings. With tracking.draw=true a training logs them with its run."""


def main() -> None:
    """Draw the layer, the config's network or the run of the command line."""
    words = sys.argv[1:]
    if names_run(words):
        run_command(lambda run_id, config, _: draw_run(run_id, config), HELP, takes=("device", "verify"))
    elif any(word.startswith("layer=") for word in words):
        with cli.script():
            if len(words) > 1:
                raise UserError(f"layer=NAME takes no other arguments, got {' '.join(words)}")
            draw_layer(words[0].removeprefix("layer="))
    else:
        cli.main(lambda config, _: draw_config(config))


def draw_layer(name: str) -> None:
    """Draw a single layer or loss."""
    folder = output_folder("outputs", "drawings")
    _save(capture_layer(name), folder / name)


def draw_config(config: Config) -> None:
    """Draw a config's network with its initial weights, on images of its data."""
    folder = output_folder("outputs", "drawings")
    data = build.dataset(config)
    net = build.network(config, data, build.device(config))
    _save(_verified(net, data, config), folder / net.name)


def draw_run(run_id: str, config: Config) -> None:
    """Draw a logged run's network with its best weights, on images of its data."""
    from nl_training.config.resolve import resolve
    from nl_training.tracking.logged_run import open_run

    folder = output_folder("outputs", "drawings")
    run = open_run(run_id, config.tracking, build.device(config))
    data = build.dataset(resolve(run.config))
    if data.input_shape != run.net.input_shape:
        raise UserError(f"data={data.name} has images {data.input_shape} now; run {run_id} had {run.net.input_shape}")
    _save(_verified(run.net, data, config), folder / f"{run.net.name}-{run.run_id}")


def _verified(net: Network, data: Dataset, config: Config) -> Diagram:
    with CertificateBar() as bar:
        outcome = verify(net, config.verify.mode, config.verify.max_seconds, bar.advance)
    return capture_training(net, data, outcome.certificate)


def _save(diagram: Diagram, path: Path) -> None:
    """Write an SVG and an HTML page to `path` plus suffix, and print a summary."""
    for suffix, text in ((".svg", svg(diagram)), (".html", page(diagram))):
        Path(f"{path}{suffix}").write_text(text, encoding="utf-8")
    print("\n".join([diagram.title, *(f"  {line}" for line in [*diagram.lines, *map(heading, diagram.graphs)])]))
    print(f"page     {path}.html\npicture  {path}.svg")
