"""Reading of files that may be broken or hostile: size limits, one-line errors."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from pathlib import Path
from typing import IO, cast

from nl_nodes import UserError

MAX_BYTES = 2**32  # raw bytes of one data set; float32 takes four times as much

_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK = 2**20


def read_file(path: Path, limit: int = MAX_BYTES) -> bytearray:
    """Return the contents of `path`, decompressed if it is gzip (by its magic bytes, not its name).

    Holds little more than `limit` bytes in memory. Raises `UserError` on larger contents, or a truncated or corrupt
    file.
    """
    try:
        with path.open("rb") as file:
            zipped = file.peek(2)[:2] == _GZIP_MAGIC
            data = read_stream(cast(IO[bytes], gzip.GzipFile(fileobj=file)) if zipped else file, limit)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} is corrupt or unreadable ({reason(error)}); replace it by an intact copy") from error
    if len(data) > limit:
        raise UserError(f"{path} holds more than the {limit:,} bytes expected; replace it by the original file")
    return data


def read_stream(stream: IO[bytes], limit: int) -> bytearray:
    """Read a stream until its end or more than `limit` bytes; memory grows only with the bytes read."""
    data = bytearray()
    while len(data) <= limit and (chunk := stream.read(_CHUNK)):
        data += chunk
    return data


def verify_digest(path: Path, sha256: str) -> None:
    """Raise `UserError` unless the file at `path` has this SHA-256; nothing in it is decompressed."""
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} is unreadable ({reason(error)}); replace it by an intact copy") from error
    if found != sha256:
        raise UserError(f"{path} is truncated or another file (its SHA-256 differs); replace it by the original")


def reason(error: BaseException) -> str:
    """Return an error's message on one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
