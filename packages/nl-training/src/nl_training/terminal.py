"""Output to terminals and pipes with a limited encoding: unencodable characters become similar ASCII."""

from __future__ import annotations

import codecs
import io
import sys
from unicodedata import normalize

HANDLER = "nl-ascii"
ASCII_FORMS = {"±": "+/-", "×": "x", "÷": "/", "µ": "u", "μ": "u", "→": "->", "≤": "<=", "≥": ">=", "λ": "lambda"} | {
    **dict.fromkeys("–—−─━╴╶╸╺═", "-"),
    **dict.fromkeys("│┃║", "|"),
    **dict.fromkeys("┌┐└┘├┤┬┴┼┏┓┗┛┡┩╇╈╋┳┻┣┫╭╮╰╯", "+"),
    **dict.fromkeys("‘’", "'"),
    **dict.fromkeys("“”„", '"'),
}  # fmt: skip


def replace_unencodable() -> None:
    """Make the standard streams replace characters that they cannot encode instead of raising."""
    codecs.register_error(HANDLER, _replace)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=HANDLER)


def to_ascii(text: str) -> str:
    """Return text in ASCII: similar characters where listed, accents stripped, escapes otherwise.

    >>> to_ascii("0.95 ± 0.01 é")
    '0.95 +/- 0.01 e'
    """
    return "".join(map(_character_to_ascii, text))


def _character_to_ascii(character: str) -> str:
    if character in ASCII_FORMS:
        return ASCII_FORMS[character]
    plain = normalize("NFKD", character).encode("ascii", "ignore")
    return (plain or character.encode("ascii", "backslashreplace")).decode()


def _replace(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return to_ascii(error.object[error.start : error.end]), error.end
