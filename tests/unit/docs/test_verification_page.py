"""docs/verification.md says what the code does: the tables of links and of planted errors, limits and sizes."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from support.plants import CLEAN, LIMITS, PLANTS, training
from support.plants.registry import ROWS, Plant

from nl_models import build
from nl_nodes import Device
from nl_nodes.verify.numeric import COMPLEX_H
from nl_training.verification import chain, points, steps, twins, verify

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "verification.md").read_text()
WORDS = " ".join(PAGE.split())


def table(plants: Mapping[str, Plant], *columns: str) -> str:
    """The rows of planted errors by link: the name in words, what is wrong, and the link."""
    by_link = sorted(plants.values(), key=lambda planted: planted.link)
    rows = [[planted.title, planted.what, planted.link][: len(columns)] for planted in by_link]
    return "".join(f"| {' | '.join(row)} |\n" for row in [columns, ["---"] * len(columns), *rows])


@pytest.mark.parametrize(
    "text", [table(PLANTS, "error", "what is wrong", "refused by"), table(LIMITS, "error", "what is wrong")]
)
def test_the_tables_of_planted_errors_are_those_of_the_code(text: str) -> None:
    assert f"\n\n{text}\n" in PAGE, text


def test_the_number_of_planted_errors() -> None:
    assert f"| {len(PLANTS)} of {len(PLANTS)} | `nox -s tests`, `nox -s sabotage` |" in PAGE


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_table_of_links_has_each_link_with_its_limit(
    dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    net = build(**ROWS, device=Device(dtype=dtype, threads=2))
    certificate = verify(net, "strict", 1e6, training=training(CLEAN["rows"], net)).certificate
    limits = {link.kind: short(link.limit) if link.limit else "" for link in certificate.links}
    rows = dict(re.findall(r"^\| (\w+) \| .+ \| ([^|]+) \|$", PAGE.partition("## Planted")[0], re.MULTILINE))
    assert rows.pop("link") == "limit"
    assert list(rows) == list(limits)
    for kind, limit in limits.items():
        told = re.findall(rf"(\S+) in {dtype}", rows[kind]) or [rows[kind]]
        assert told == [limit or {"precision": "equal", "executor": "same bits"}[kind]], kind


def short(number: float) -> str:
    return f"{number:.0e}".replace("e-0", "e-")


@pytest.mark.parametrize(
    "told",
    [
        f"h can be {short(COMPLEX_H)}",
        f"batch of {twins.IMAGES} images ({twins.IMAGES_NORMALISED} with batch norm)",
        f"more than {twins.MEMORY / 2**30:g} GiB",
        f"makes {steps.UPDATES} updates",
        f"each of these steps takes up to {steps.ACCUMULATED} batches",
        "indices {}, {} and 2^40".format(*points.PASSES),
        f"some weights that are {max(chain.FACTORS):g} times too large",
        f"within {short(chain.GPU_TOLERANCE)}, and the training plan's own in float32 within 1e-3",
        f"within {chain.TF32_LIMIT:.0%} with TF32".replace("%", " %"),
        f"train for {steps.EPOCHS} epochs of {steps.STEPS} steps",
    ],
)
def test_page_has_the_codes_numbers(told: str) -> None:
    assert told in WORDS


def test_the_passes_that_are_compared() -> None:
    assert points.PASSES[2] == 2**40
