"""Output in encodings with few characters: it does not fail and stays readable."""

import io
import sys

import pytest
from rich.console import Console
from rich.table import Table

from nl_training.terminal import replace_unencodable, to_ascii

SAID = "seeds ± 0.0043 × │ — naïve x² 4.2 µs"


def printed(monkeypatch: pytest.MonkeyPatch, encoding: str, errors: str, text: str) -> str:
    """Return the text as written by a stdout with this encoding."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding, errors))
    replace_unencodable()
    print(text)
    table = Table("class", "accuracy", title=text)
    table.add_row("één", "1.0")
    Console(width=60).print(table)
    sys.stdout.flush()
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])  # Python's default if LC_ALL=C
def test_ascii_is_readable(monkeypatch: pytest.MonkeyPatch, errors: str) -> None:
    out = printed(monkeypatch, "ascii", errors, SAID)
    assert out.splitlines()[0] == "seeds +/- 0.0043 x | - naive x2 4.2 us"
    assert "een" in out
    assert "?" not in out


def test_code_page_keeps_its_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    out = printed(monkeypatch, "cp1252", "strict", SAID)
    assert out.splitlines()[0] == "seeds ± 0.0043 × | — naïve x² 4.2 µs"


def test_utf_8_shows_all_characters_and_lone_surrogates(monkeypatch: pytest.MonkeyPatch) -> None:
    out = printed(monkeypatch, "utf-8", "strict", f"{SAID} 사진 \udcff")
    assert out.splitlines()[0] == f"{SAID} 사진 \\udcff"


def test_unprintable_characters_are_escaped() -> None:
    assert to_ascii("data.root=/사진 \N{COMBINING ACUTE ACCENT}") == "data.root=/\\uc0ac\\uc9c4 \\u0301"
