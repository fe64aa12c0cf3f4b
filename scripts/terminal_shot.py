"""Draw the terminal of a short training for the README: `python scripts/terminal_shot.py` writes docs/training.svg."""

import io
import re
import shlex
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console

ROOT = Path(__file__).resolve().parents[1]
COMMAND = "python scripts/train.py trainer.epochs=5"


def main() -> None:
    """Train in an empty store and draw the output."""
    with TemporaryDirectory() as folder:
        uri = f"tracking.uri=sqlite:///{folder}/mlflow.db"
        command = [sys.executable, *shlex.split(COMMAND)[1:], uri]
        text = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    draw(text)


def draw(text: str) -> None:
    """Draw what a terminal keeps of the output: there a bar is instead of the lines of steps. Paths are left out."""
    kept = re.sub(r"^step .*\n", "", text.partition("\nrun   ")[0], flags=re.M)
    console = Console(record=True, width=100, file=io.StringIO())
    console.print(f"$ {COMMAND}\n{kept.rstrip()}", highlight=False, markup=False)
    plain = re.sub(r"@font-face {{.*?}}", "", CONSOLE_SVG_FORMAT, flags=re.S)  # nothing is fetched
    svg = console.export_svg(title="Node_Layer_Network", code_format=plain, unique_id="training")
    (ROOT / "docs" / "training.svg").write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
