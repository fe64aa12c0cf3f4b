"""Downloads from a list of mirrors, verified and renamed into place atomically."""

from __future__ import annotations

import http.client
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from nl_nodes import UserError
from nl_nodes.files import atomic_write
from nl_training.data.files import reason

TIMEOUT = 30.0  # seconds without a byte

_CHUNK = 2**16


def download(target: Path, urls: Sequence[str], limit: int, verify: Callable[[Path], object]) -> None:
    """Download `target` from the first of `urls` whose file has at most `limit` bytes and passes `verify`.

    `verify` is called with the path of a temporary file and raises `UserError` on a wrong file. Concurrent downloads
    of one file are safe. Raises `UserError` with the last mirror's error, and a way around it, if all fail.
    """
    why = "no mirror is known"
    for url in urls:
        try:
            _fetch(target, url, limit, verify)
            return
        except (OSError, http.client.HTTPException, UserError) as error:
            why = reason(error)
    advice = "put the data set's files into a folder and pass data.root=FOLDER"
    raise UserError(f"{target.name} could not be downloaded ({why}); {advice}")


def _fetch(target: Path, url: str, limit: int, verify: Callable[[Path], object]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(target) as file:
        _copy(url, file, limit)
        file.flush()
        verify(Path(file.name))


def _copy(url: str, file: BinaryIO, limit: int) -> None:
    console = Console(stderr=True)
    if not console.is_terminal:
        console.print(f"downloading {url}", soft_wrap=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with (
        urllib.request.urlopen(url, timeout=TIMEOUT) as response,
        Progress(*columns, console=console, disable=not console.is_terminal) as progress,
    ):
        task = progress.add_task(url.rpartition("/")[2], total=response.length)
        size = 0
        while chunk := response.read(_CHUNK):
            size += len(chunk)
            if size > limit:
                raise UserError(f"{url} gives more than the {limit:,} bytes expected")
            file.write(chunk)
            progress.advance(task, len(chunk))
