"""Checkpoints in files: whole or refused, written beside the training, the last two and the best kept.

A file is safetensors, which hold names, shapes and numbers and can run nothing; its metadata carry the rest as JSON.
The last tensor, `sha256`, is the checksum of every byte before it.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from math import prod
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any

import numpy as np

from nl_nodes import UserError
from nl_nodes.platform import locked, sync_folder

log = logging.getLogger(__name__)

FORMAT = "node-layer-network checkpoint 1"
SUM, SUM_BYTES = "sha256", 32
KEPT = 2
DTYPES = {"float64": "F64", "float32": "F32", "int64": "I64", "uint8": "U8"}


@dataclass(frozen=True)
class Snapshot:
    """A training at one moment.

    Attributes:
        arrays: host arrays by name, float64, float32, int64 or uint8.
        facts: everything else, as JSON has it; it holds `step`.
    """

    arrays: dict[str, Any]
    facts: dict[str, Any]


def write(snapshot: Snapshot, path: Path) -> None:
    """Write a snapshot so that, whatever happens, `path` is what it was or is the whole new file on the disk.

    Raises:
        OSError: when it cannot be written; `path` is what it was.
    """
    aside = path.with_name(f"{path.name}.part")
    try:
        with aside.open("wb") as file:
            digest = sha256()
            for piece in _pieces(snapshot):
                digest.update(piece)
                file.write(piece)
            file.write(digest.digest())
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    sync_folder(path.parent)


def read(path: Path) -> Snapshot:
    """Read what `write` wrote.

    Raises:
        UserError: when the file is missing, is no checkpoint, or one bit of it is not as it was written.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the checkpoint {path}: {error.strerror}") from None
    if sha256(memoryview(data)[:-SUM_BYTES]).digest() != data[-SUM_BYTES:]:
        raise UserError(f"{path} is no whole checkpoint: it was changed or cut short, or is another kind of file")
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        facts = json.loads(header["__metadata__"][FORMAT])
        arrays = load(data)
        del arrays[SUM]
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{path} is no checkpoint of this project") from None
    return Snapshot(arrays, facts)


def _pieces(snapshot: Snapshot) -> Iterator[Any]:
    """The file's bytes but for the checksum: the header's length, the header, the arrays, the widest numbers first."""
    arrays = dict(sorted(snapshot.arrays.items(), key=lambda pair: -pair[1].itemsize))
    header: dict[str, Any] = {"__metadata__": {FORMAT: json.dumps(snapshot.facts)}}
    start = 0
    shapes = {name: (DTYPES[a.dtype.name], a.shape, a.nbytes) for name, a in arrays.items()}
    for name, (dtype, shape, size) in {**shapes, SUM: ("U8", (SUM_BYTES,), SUM_BYTES)}.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": (start, start + size)}
        start += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that the numbers are aligned
    yield len(text).to_bytes(8, "little") + text
    for array in arrays.values():
        if prod(array.shape):
            yield np.ascontiguousarray(array).data.cast("B")


class Checkpoints:
    """The checkpoints of one run, which no other process may write; a context.

    A thread writes, so that the training goes on. A checkpoint that cannot be written costs a warning, no training.

    Args:
        folder: where they lie.
        every_steps: when one is due, None for never.
        every_seconds: the same, in seconds since the last.

    Raises:
        UserError: when another process has the folder.
    """

    def __init__(self, folder: Path, every_steps: int | None = None, every_seconds: float | None = None) -> None:
        self.folder, self.every_steps, self.every_seconds = folder, every_steps, every_seconds
        self._pool = ThreadPoolExecutor(1, "checkpoint")
        self._writing: tuple[Future[None], Snapshot] | None = None
        self._at = monotonic()
        self._lock = ExitStack()

    def __enter__(self) -> Checkpoints:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.enter_context(locked(self.folder, wait=False))
        except BlockingIOError:
            raise UserError(f"another process is training this run: it writes to {self.folder}") from None
        except OSError as error:
            raise UserError(f"no checkpoints can be written to {self.folder}: {error.strerror}") from None
        for left in self.folder.glob("*.part"):
            left.unlink()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()
        self._lock.close()

    def due(self, step: int) -> bool:
        """Whether it is time for one after this step."""
        late = self.every_seconds is not None and monotonic() - self._at >= self.every_seconds
        return late or (self.every_steps is not None and step % self.every_steps == 0)

    def busy(self) -> bool:
        """Whether the last one is still being written."""
        return self._writing is not None and not self._writing[0].done()

    def save(self, snapshot: Snapshot, best: bool = False) -> None:
        """Begin to write one; `best` keeps it until the next best. Its arrays must not change any more."""
        self._at = monotonic()
        number = max((_number(path) for path in self.paths()), default=0) + 1
        name = f"{number:06d}-step-{snapshot.facts['step']}{'-best' if best else ''}.safetensors"
        self._writing = (self._pool.submit(self._write, snapshot, self.folder / name), snapshot)

    def collect(self, wait: bool = False) -> Snapshot | None:
        """The snapshot that has come to the disk since the last call, None where there is none."""
        if self._writing is None or (self.busy() and not wait):
            return None
        (future, snapshot), self._writing = self._writing, None
        try:
            future.result()
        except OSError as error:
            reason = error.strerror or str(error)
            log.warning("no checkpoint at step %s (%s): the one before it stays", snapshot.facts["step"], reason)
            return None
        return snapshot

    def paths(self) -> list[Path]:
        """The files, the oldest first."""
        return sorted(self.folder.glob("*-step-*.safetensors"), key=_number)

    def newest(self) -> Snapshot | None:
        """The newest that is whole, None where there is none; one that is not costs a warning."""
        for path in reversed(self.paths()):
            try:
                return read(path)
            except UserError as error:
                log.warning("%s; the one before it is taken", error)
        return None

    def _write(self, snapshot: Snapshot, path: Path) -> None:
        write(snapshot, path)
        paths = self.paths()
        best = [p for p in paths if p.stem.endswith("-best")]
        for old in set(paths) - {*paths[-KEPT:], *best[-1:]}:
            old.unlink()


def _number(path: Path) -> int:
    head = path.name.partition("-")[0]
    return int(head) if head.isdigit() else 0
