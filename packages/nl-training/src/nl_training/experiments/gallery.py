"""The gallery: every experiment is run as its command says, and docs/gallery.md shows what it logged.

    python -m nl_training.experiments.gallery [NAME...]

Without names it runs all of them, which takes hours on two cores. Each is a process of its own with a store of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from omegaconf import OmegaConf
from PIL import Image

from nl_nodes import UserError
from nl_training.paths import ROOT
from nl_training.tracking.store import Store

CONF = ROOT / "conf" / "experiment"
PAGE = ROOT / "docs" / "gallery.md"
FOLDER = ROOT / "docs" / "gallery"
NUMBERS = FOLDER / "numbers.json"
MAX_BYTES = 60_000
SHOWN = 24  # numbers of one experiment on the page
# Of an ordinary training: what the page shows of its pictures and metrics.
PICTURES = ("learning_curves", "worst_mistakes")
METRICS = {
    "final/test_acc": "test accuracy",
    "final/test_loss": "test loss",
    "steps_to_target": "steps to target",
    "seconds_to_target": "seconds to target",
    "seconds": "seconds",
}
HEAD = """# Gallery

The experiments of the textbook (Deep Learning from Scratch) and of Node_Layer_Network, run again. Each is a config in
[conf/experiment](../conf/experiment) that you can read and change, such as `experiment.steps=50` or `optimizer.lr=0.1`
beside its name; `reduced=true` gives a look in seconds. A run logs its figures and numbers to MLflow.

This page is made by `nox -s gallery` (all) or `nox -s gallery -- NAME...` (some); all numbers lie in
[numbers.json](gallery/numbers.json). Seconds vary with the machine.
"""

Entry = dict[str, Any]


def experiments() -> dict[str, Entry]:
    """The key `experiment` of every config by name, in the order of their sources."""
    found = [dict(OmegaConf.load(path).experiment) for path in CONF.glob("*.yaml")]
    return {entry["name"]: entry for entry in sorted(found, key=lambda entry: (entry["source"], entry["name"]))}


def page(entries: Mapping[str, Entry], results: Mapping[str, Entry]) -> str:
    """The page, of the configs' words and the results of those that were run."""
    sections = [_section(entry, results.get(name)) for name, entry in entries.items()]
    return HEAD + "".join(sections)


def _section(entry: Entry, result: Entry | None) -> str:
    lines = ["", f"## {entry['title']}", "", f"    python scripts/train.py experiment={entry['name']}", ""]
    lines += [f"Source: {' '.join(entry['source'].split())}.", "", " ".join(entry["see"].split()), ""]
    if result is None:
        return "\n".join([*lines, "Not run yet.", ""])
    lines += [f"![{entry['title']}](gallery/{picture})" for picture in result["figures"]]
    lines += ["", "| number | value |", "|---|---|"]
    lines += [f"| {name} | {value:.6g} |" for name, value in list(result["numbers"].items())[:SHOWN]]
    more = len(result["numbers"]) - SHOWN
    return "\n".join([*lines, *([f"| {more} more | in numbers.json |"] if more > 0 else []), ""])


def run(name: str) -> Entry:
    """Run an experiment in a process and store of its own; bring its figures here and return its numbers."""
    with TemporaryDirectory() as folder:
        uri = f"sqlite:///{folder}/runs.db"
        command = [sys.executable, str(ROOT / "scripts" / "train.py"), f"experiment={name}"]
        if subprocess.run(command, env={**os.environ, "MLFLOW_TRACKING_URI": uri}).returncode:
            raise UserError(f"{name} failed")
        store = Store.open(uri, "node-layer-network")
        (logged,) = store.client.search_runs([store.experiment_id])
        artifacts = Path(store.client.download_artifacts(logged.info.run_id, "", folder))
        numbers = artifacts / "numbers.json"
        if numbers.is_file():
            pictures, values = sorted(artifacts.glob("*.png")), json.loads(numbers.read_text())
        else:
            metrics = logged.data.metrics
            values = {text: metrics[key] for key, text in METRICS.items() if key in metrics}
            pictures = [artifacts / f"{stem}.png" for stem in PICTURES]
        return {"figures": [shrink(picture, name) for picture in pictures], "numbers": values}


def shrink(picture: Path, name: str) -> str:
    """A small copy of a picture in the gallery's folder; its name there."""
    target = FOLDER / (picture.name if picture.stem.startswith(name) else f"{name}_{picture.name}")
    with Image.open(picture) as image:
        plain = image.convert("RGB")
    for colors in (128, 64, 32, 16):
        plain.quantize(colors).save(target, optimize=True)
        if target.stat().st_size <= MAX_BYTES:
            break
    return target.name


def main(names: Iterable[str]) -> None:
    """Run these experiments, or all, and write the page after each."""
    entries = experiments()
    FOLDER.mkdir(exist_ok=True)
    results = json.loads(NUMBERS.read_text()) if NUMBERS.is_file() else {}
    for name in list(names) or entries:
        if name not in entries:
            raise UserError(f"there is no experiment {name}: it may be {', '.join(entries)}")
        results[name] = run(name)
        NUMBERS.write_text(json.dumps({key: results[key] for key in entries if key in results}, indent=1) + "\n")
        PAGE.write_text(page(entries, results))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
