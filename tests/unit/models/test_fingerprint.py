"""A certificate's fingerprint covers all code that takes part: any edit changes it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

PACKAGES = Path(__file__).resolve().parents[3] / "packages"
EDIT = """
import json, random
from pathlib import Path
from nl_models import build
from nl_nodes.verify import code_hash, fingerprint

net = build("mlp", width=4)
graph, modules = net.wire(2, True), ("nl_models.network", "nl_layers.affine")
before = fingerprint(graph, modules)
rng, missed = random.Random(7), []
files = sorted(Path(".").rglob("*.py"))
lines = [(file, number) for file in files for number in range(len(file.read_bytes().splitlines()))]
for file, number in rng.sample(lines, 50):
    text = file.read_bytes()
    parts = text.splitlines(keepends=True)
    parts[number] = parts[number].rstrip() + b"  # edited\\n"
    file.write_bytes(b"".join(parts))
    if fingerprint(graph, modules) == before:
        missed.append(f"{file}:{number}")
    file.write_bytes(text)
print(json.dumps([len(files), missed, fingerprint(graph, modules) == before]))
"""


def test_editing_any_line_changes_the_fingerprint(tmp_path: Path) -> None:
    for name in ("nodes", "layers", "models"):
        shutil.copytree(PACKAGES / f"nl-{name}" / "src" / f"nl_{name}", tmp_path / f"nl_{name}")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", EDIT], env=environment, cwd=tmp_path, capture_output=True, text=True)
    files, missed, same_again = json.loads(done.stdout)
    assert files > 60, done.stderr
    assert (missed, same_again) == ([], True)
