"""What a terminal or pipe can show: characters that its encoding lacks give way to others that read alike."""

from __future__ import annotations

import codecs
import io
import sys
from unicodedata import normalize

HANDLER = "nl-alike"
ALIKE = {"±": "+/-", "×": "x", "÷": "/", "µ": "u", "μ": "u", "→": "->", "≤": "<=", "≥": ">=", "λ": "lambda"} | {
    **dict.fromkeys("–—−─━╴╶╸╺═", "-"),
    **dict.fromkeys("│┃║", "|"),
    **dict.fromkeys("┌┐└┘├┤┬┴┼┏┓┗┛┡┩╇╈╋┳┻┣┫╭╮╰╯", "+"),
    **dict.fromkeys("‘’", "'"),
    **dict.fromkeys("“”„", '"'),
}  # fmt: skip


def show_what_it_can() -> None:
    """Let the standard streams of this process replace what they cannot encode, where they would raise."""
    codecs.register_error(HANDLER, _replace)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=HANDLER)


def alike(text: str) -> str:
    """The text in ASCII: as it reads where that is known, without its accents, else as escapes.

    >>> alike("0.95 ± 0.01 é")
    '0.95 +/- 0.01 e'
    """
    return "".join(map(_alike, text))


def _alike(character: str) -> str:
    if character in ALIKE:
        return ALIKE[character]
    plain = normalize("NFKD", character).encode("ascii", "ignore")
    return (plain or character.encode("ascii", "backslashreplace")).decode()


def _replace(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return alike(error.object[error.start : error.end]), error.end
