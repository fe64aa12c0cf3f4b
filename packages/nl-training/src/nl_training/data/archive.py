"""A data set's published archive: found in a folder or the cache, or downloaded, and verified before it is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nl_nodes.platform import cache_folder
from nl_training.data.download import download
from nl_training.data.files import verify_digest


@dataclass(frozen=True)
class Archive:
    """A published archive: file name, size in bytes, SHA-256 and the addresses it is downloaded from."""

    name: str
    size: int
    sha256: str
    mirrors: tuple[str, ...]

    def find(self, folder: Path) -> Path | None:
        """Return the verified archive's path in `folder`, None if it is missing; `UserError` if it is another file."""
        path = folder / self.name
        if not path.is_file():
            return None
        self.verify(path)
        return path

    def cached(self, data_set: str) -> Path:
        """Return the verified archive's path in the user's cache, where it is downloaded if it is missing."""
        target = cache_folder() / data_set / self.name
        if self.find(target.parent) is None:
            download(target, [f"{mirror}{self.name}" for mirror in self.mirrors], self.size, self.verify)
        return target

    def verify(self, path: Path) -> None:
        """Raise `UserError` unless the file at `path` is this archive."""
        verify_digest(path, self.sha256)
