"""Build hook: the repository's config files become part of the package."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ConfigFiles(BuildHookInterface):
    """Adds `conf` to the sdist and to the wheel; in a wheel built from the sdist it is part of the package already."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the folder, except to an editable installation, which reads the repository's."""
        conf = Path(self.root).parents[1] / "conf"
        if version != "editable" and conf.is_dir() and not Path(self.root, "src/nl_training/conf").exists():
            package = "src/nl_training" if self.target_name == "sdist" else "nl_training"
            build_data["force_include"][str(conf)] = f"{package}/conf"
