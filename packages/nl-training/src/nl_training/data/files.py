"""Reading files that may be broken or hostile: bounded in size, with one line for whatever is wrong."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import IO, cast

from nl_nodes import UserError

MAX_BYTES = 2**32  # raw bytes of one data set: four times that as float32 is what a machine can be expected to hold

_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK = 2**20


def read_file(path: Path, limit: int = MAX_BYTES) -> bytearray:
    """The contents of `path`, unzipped when it is gzip (told by its first bytes, not its name).

    Never holds more than `limit` bytes and a little: what unpacks to more is refused, as is a truncated or corrupt
    file, with a `UserError`.
    """
    try:
        with path.open("rb") as file:
            zipped = file.peek(2)[:2] == _GZIP_MAGIC
            data = read_stream(cast(IO[bytes], gzip.GzipFile(fileobj=file)) if zipped else file, limit)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} is corrupt or unreadable ({reason(error)}); replace it by a whole copy") from error
    if len(data) > limit:
        raise UserError(f"{path} holds more than the {limit:,} bytes expected; replace it by the true file")
    return data


def read_stream(stream: IO[bytes], limit: int) -> bytearray:
    """What a stream gives, until it is more than `limit` bytes; no memory is taken before its bytes are there."""
    data = bytearray()
    while len(data) <= limit and (chunk := stream.read(_CHUNK)):
        data += chunk
    return data


def reason(error: BaseException) -> str:
    """What an error says, on one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
