"""Atomic writes of files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import get_native_id
from typing import BinaryIO

from nl_nodes.platform import sync_folder


@contextmanager
def atomic_write(path: Path, durable: bool = False) -> Iterator[BinaryIO]:
    """Open a file beside `path` that is renamed to it at the end of the block, so that no reader sees a part of it.

    Several threads and processes may write to one path; the last rename wins.

    Args:
        path: the file to write or replace.
        durable: whether to flush file and folder to disk, so that a crash of the system loses neither.

    Raises:
        OSError: where it cannot be written. `path` is then unchanged, as after an exception in the block.
    """
    aside = path.with_name(f".{path.name}.{get_native_id()}.part")
    try:
        with aside.open("wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        aside.replace(path)
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
    if durable:
        sync_folder(path.parent)
