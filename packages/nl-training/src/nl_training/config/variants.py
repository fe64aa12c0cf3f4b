"""Variants of a config: the same run with a few keys overridden."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nl_nodes import UserError
from nl_nodes.arguments import near
from nl_training.config import folders
from nl_training.config.resolve import resolve
from nl_training.config.schema import Config


def variant(cfg: DictConfig, changes: Mapping[str, Any]) -> tuple[Config, DictConfig]:
    """Return a config with some keys overridden, validated and as composed.

    Args:
        cfg: a composed config.
        changes: values by key, such as `{"model": "vgg16", "model.width": 16}`; the value of a group is an option.

    Raises:
        UserError: on an unknown option or key, or a value out of range.
    """
    if not isinstance(changes, Mapping):
        raise UserError(f"a variant must be a group of keys, such as {{optimizer.lr: 0.1}}, not {changes}")
    changed = copy.deepcopy(cfg)
    for key, value in changes.items():
        if key in folders.groups():
            changed[key] = _option(key, str(value))
            continue
        try:
            OmegaConf.update(changed, key, value)
        except OmegaConfBaseException:
            group = key.partition(".")[0]
            known = [f"{group}.{name}" for name in changed.get(group) or ()]
            raise UserError(f"{key}={value}: {key} is unknown: {near(key, known)}") from None
    return resolve(changed), changed


def _option(group: str, name: str) -> Any:
    options = folders.options(group)
    if name not in options:
        raise UserError(f"{group}={name} is unknown: {near(name, options)}")
    return OmegaConf.load(options[name])
