"""The notebooks are stored as they run: each cell once, in order, with the printed output of a fresh run."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def cells(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def test_there_are_four() -> None:
    assert [path.stem[:1] for path in NOTEBOOKS] == ["1", "2", "3", "4"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_complete_small_and_without_warnings(path: Path) -> None:
    found = cells(path)
    assert [cell["execution_count"] for cell in found] == list(range(1, len(found) + 1))
    outputs = [output for cell in found for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {"stream", "execute_result", "display_data"}
    assert {output["name"] for output in outputs if output["output_type"] == "stream"} == {"stdout"}
    assert path.stat().st_size < 200_000


# The sweep of the third runs in `nox -s docs` alone: it takes half a minute.
@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if "sweep" not in path.stem], ids=lambda path: path.stem)
def test_a_fresh_run_prints_what_is_stored(path: Path) -> None:
    found = cells(path)
    code = "\n".join("".join(cell["source"]) for cell in found)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    stored = "".join("".join(o["text"]) for cell in found for o in cell["outputs"] if o["output_type"] == "stream")
    assert done.stdout == stored, done.stderr
