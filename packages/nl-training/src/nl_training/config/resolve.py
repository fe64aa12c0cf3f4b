"""Validation of Hydra's composed config against the schema: known keys, correct types, values in range."""

from __future__ import annotations

import dataclasses
import json
import types
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ConfigDict, TypeAdapter, ValidationError

from nl_nodes import UserError
from nl_nodes.arguments import near
from nl_training.config import folders
from nl_training.config.experiments import STUDIES, ExperimentConfig
from nl_training.config.plugins import load_plugins
from nl_training.config.schema import GROUPS, NAMED, TARGETS, Config

STRICT = ConfigDict(strict=True)  # true is no number, and text is none


def resolve(cfg: DictConfig) -> Config:
    """Import the config's plugins and return it validated.

    Raises:
        UserError: with a key, its value and the valid values, or the error of a plugin.
    """
    try:
        plain = OmegaConf.to_container(reduced(cfg), resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UserError(f"the config cannot be resolved: {str(error).splitlines()[0]}") from None
    assert isinstance(plain, dict)
    values = {str(key): value for key, value in plain.items() if key != "hydra"}
    load_plugins(_value(get_type_hints(Config)["imports"], values.get("imports", []), "imports"))
    own = {name: _object(kind, values.pop(name), name) for name, kind in GROUPS.items() if name in values}
    for name in folders.own_groups():
        if name in values:
            raise UserError(f"{name} has no schema: a plugin adds it to GROUPS of nl_training.config.schema")
    config: Config = _object(Config, {**values, "own": own}, "")
    return config


def named(config: Config, cfg: DictConfig) -> dict[str, Any]:
    """Return a config as nested values, with the names of its optimizer and schedule: two may have the same keys.

    Args:
        config: the validated config.
        cfg: the config that it was resolved from.
    """
    values, chosen = dataclasses.asdict(config), reduced(cfg)
    values |= values.pop("own")
    for group in TARGETS:
        values[group] = {"name": target_name(chosen[group]), **values[group]}
    return values


def target_name(group: DictConfig) -> str:
    """Return the name of what a group creates, such as "adam"."""
    return str(group["_target_"]).rpartition(".")[2].lower()


def reduced(cfg: DictConfig) -> DictConfig:
    """Return the config with `experiment.small` merged over it if `reduced` is set; unchanged otherwise."""
    if cfg.reduced is not True:
        return cfg
    if cfg.experiment is None:
        raise UserError("reduced=true goes with an experiment: add experiment=NAME")
    extensible = cfg.copy()
    OmegaConf.set_struct(extensible, False)  # validation finds unknown keys later
    merged = OmegaConf.merge(extensible, cfg.experiment.small)
    assert isinstance(merged, DictConfig)
    return merged


def _object(kind: type, values: Any, path: str) -> Any:
    if not isinstance(values, Mapping):
        raise UserError(f"{path}={values} must be a group of keys")
    values = dict(values)
    if path in TARGETS:
        target = values.pop("_target_", None)
        if not isinstance(target, str) or target not in TARGETS[path]:
            raise UserError(f"{path}._target_={target} is not known: {near(str(target), TARGETS[path])}")
        kind = TARGETS[path][target]
    if kind is ExperimentConfig:
        study = values.get("study")
        if study not in STUDIES:
            raise UserError(f"{path}.study={study} is not known: {near(str(study), STUDIES)}")
        kind = STUDIES[study]
    if path in NAMED:
        name = _value(get_type_hints(kind, include_extras=True)["name"], values.get("name"), f"{path}.name")
        kind = NAMED[path].get(name, kind)
    hints = get_type_hints(kind, include_extras=True)
    fields = dataclasses.fields(kind)
    names = [field.name for field in fields]
    values = {field.name: field.default for field in fields if field.default is not dataclasses.MISSING} | values
    prefix = f"{path}." if path else ""
    for key in values:
        if key not in names:
            raise UserError(f"{prefix}{key} is unknown: {near(key, names)}")
    for name in names:
        if name not in values:
            raise UserError(f"{prefix}{name} is missing")
    return kind(**{name: _value(hints[name], values[name], f"{prefix}{name}") for name in names})


def _value(hint: Any, value: Any, path: str) -> Any:
    if get_origin(hint) in (Union, types.UnionType) and path not in TARGETS:
        groups = [h for h in get_args(hint) if dataclasses.is_dataclass(h)]
        hint = groups[0] if groups and value is not None else hint  # an optional group
    if dataclasses.is_dataclass(hint) or path in TARGETS:
        return _object(hint, value, path)
    if path == "experiment":
        return None if value is None else _object(ExperimentConfig, value, path)
    try:
        return TypeAdapter(hint, config=STRICT).validate_python(tuple(value) if isinstance(value, list) else value)
    except ValidationError:
        raise UserError(f"{path}={_shown(value)} must be {_describe(hint)}") from None


def _describe(hint: Any) -> str:
    """Return a type in words."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_describe(h) for h in get_args(hint))
    if origin is Annotated:
        return str(get_args(hint)[1].values.description)
    if origin is Literal:
        return ", ".join(get_args(hint)[:-1]) + f" or {get_args(hint)[-1]}" if get_args(hint)[1:] else get_args(hint)[0]
    if origin is tuple:
        kinds = get_args(hint)
        count = "values" if kinds[-1] is Ellipsis else f"{len(kinds)} numbers"
        return f"a list of {count}, each {_describe(kinds[0])}"
    if origin is Mapping:
        kind = get_args(hint)[1]
        return "a group of keys" if kind is Any else f"a group of keys of which each is {_describe(kind)}"
    words = {types.NoneType: "null", bool: "true or false", str: "text", int: "a whole number", float: "a number"}
    return words.get(hint, str(hint))


def _shown(value: Any) -> str:
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)
