"""Where things lie: the repository's root for outputs, the user's cache folder for data sets."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[4]


def cache_folder() -> Path:
    """The user's cache folder of this project (`$XDG_CACHE_HOME/node-layer-network`); it need not exist yet."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "node-layer-network"
