"""What draw does and prints: a layer, a config's network or a logged run's, as files to open."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nl_models import Network
from nl_nodes import UserError
from nl_training.config import build
from nl_training.data import Dataset
from nl_training.paths import output_folder
from nl_training.training.progress_bar import CertificateBar
from nl_training.verification import verify
from nl_training.viz.graph import Sketch, page, sketch_layer, sketch_network, svg
from nl_training.viz.graph.svg import told

if TYPE_CHECKING:
    from nl_nodes.verify import Certificate
    from nl_training.config.schema import Config

IMAGES = 8


def draw_layer(name: str) -> None:
    """Draw a layer or loss alone."""
    folder = output_folder("outputs", "drawings")
    _save(sketch_layer(name), folder / name)


def draw_config(config: Config) -> None:
    """Draw a config's network with its first weights, on images of its data."""
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


def draw_training(net: Network, data: Dataset, certificate: Certificate | None) -> Sketch:
    """A network on the first training images of its data."""
    part = data.train
    return sketch_network(net, part.x[:IMAGES], part.t[:IMAGES], certificate, f"images of {data.name}")


def _verified(net: Network, data: Dataset, config: Config) -> Sketch:
    with CertificateBar() as bar:
        outcome = verify(net, config.verify.mode, config.verify.max_seconds, bar.advance)
    return draw_training(net, data, outcome.certificate)


def _save(sketch: Sketch, path: Path) -> None:
    """Write a page and a picture, each to `path` with its ending, and print what they show."""
    for ending, text in ((".svg", svg(sketch)), (".html", page(sketch))):
        Path(f"{path}{ending}").write_text(text, encoding="utf-8")
    print("\n".join([sketch.title, *(f"  {line}" for line in [*sketch.lines, *map(told, sketch.halves)])]))
    print(f"page     {path}.html\npicture  {path}.svg")
