"""Command line of the commands: Hydra's, with every mistake reported in one line before anything starts."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from shutil import rmtree
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nl_nodes import UserError
from nl_nodes.arguments import near
from nl_training.config import folders
from nl_training.config.arguments import COMPLETION, split
from nl_training.config.failures import Failures, permanent_folder, temporary_folder
from nl_training.config.help import explained
from nl_training.config.launchers import launcher, on_other_machines
from nl_training.config.quoting import quote_text, read_override, shell_override, takes_text
from nl_training.config.resolve import reduced, resolve
from nl_training.config.schema import Config
from nl_training.config.sweep_jobs import Summarized, SweepJobs, job_number
from nl_training.paths import CONF, output_root
from nl_training.terminal import replace_unencodable

Task = Callable[[Config, DictConfig], Summarized | None]
Sweep = Callable[[Config, list[str]], AbstractContextManager[Mapping[str, str]]]

STOPPED = 128 + signal.SIGINT  # a shell's exit code for that signal
# Keys of Hydra's own config that the commands replace by validated arguments.
HYDRA_INSTEAD = {
    "hydra.mode": "-m makes a sweep",
    "hydra.searchpath": "--config-dir FOLDER adds a folder of configs",
    "hydra.sweeper.params": "a sweep is KEY=VALUE,VALUE with -m",
}
OmegaConf.register_new_resolver("nl_output", lambda: str(output_root()), replace=True)
OmegaConf.register_new_resolver("nl_explained", lambda *, _root_: explained(_root_), replace=True)


def main(task: Task, sweep: Sweep | None = None) -> None:
    """Run a task on the config that the command line composes; exit with code 1 on a user error.

    Args:
        task: called with the validated config and Hydra's.
        sweep: with `-m`, the context around all jobs: called with the first job's config and the overrides, it yields
            the environment variables that the jobs need.
    """
    with script():
        given = split(sys.argv[1:])
        overrides = [quote_text(text) for text in given.overrides]
        sweep_context: AbstractContextManager[Mapping[str, str]] = nullcontext({})
        launcher_context: AbstractContextManager[None] = nullcontext()
        folder, jobs = temporary_folder(), None
        if COMPLETION not in given.flags:
            if given.runs:
                _check_folders()
                launcher_context = launcher(overrides)
            first = check(overrides, given.multirun)
            jobs = _sweep_jobs(overrides) if given.multirun else None
            if given.runs and ((sweep is not None and first.tracking.enabled) or on_other_machines(overrides)):
                folder = permanent_folder()
            if given.multirun and sweep is not None:
                sweep_context = sweep(first, overrides)
        with folder as (failures, output_overrides), sweep_context as environment, launcher_context:
            given = dataclasses.replace(given, overrides=[*output_overrides, *overrides] if given.runs else overrides)
            sys.argv[1:] = [*folders.flags(), *given.ordered()]
            run = _collect_failures(task, failures, {**environment, **folders.environment()}, jobs)
            hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(run)()
            if messages := failures.take():  # inside the context, so that the sweep's parent run fails too
                raise UserError("\nerror: ".join(messages))


@contextmanager
def script() -> Iterator[None]:
    """Run the body of a command, with `--config-dir` taken from its arguments.

    It exits with one line and code 1 on a user error, with `STOPPED` on an interrupt.
    """
    replace_unencodable()
    try:
        sys.argv[1:] = folders.take_own(sys.argv[1:])
        yield
    except (UserError, MemoryError) as error:
        sys.exit(f"error: {_message(error)}")
    except KeyboardInterrupt:
        sys.exit(STOPPED)


def _message(error: Exception) -> str:
    return f"not enough memory: {error}".removesuffix(": ") if isinstance(error, MemoryError) else str(error)


def _check_folders() -> None:
    """Reject folders whose names Hydra would read as interpolations."""
    for folder in (Path.cwd(), *folders.folders(), output_root()):
        if "${" in str(folder):
            raise UserError(f"Hydra cannot read the path {folder}: leave ${{ out of it")


def _collect_failures(
    task: Task, failures: Failures, environment: Mapping[str, str], jobs: SweepJobs | None
) -> Callable[[DictConfig], Any]:
    """Wrap a task for Hydra: user errors are recorded, so that the other jobs of a sweep still run."""

    def run(cfg: DictConfig) -> Any:
        replace_unencodable()  # a worker process has its own streams
        os.environ.update(environment)  # workers of a running cluster do not inherit it
        lines = jobs and jobs.begin()
        try:
            result = task(resolve(cfg), reduced(cfg))
        except (UserError, MemoryError) as error:
            failures.add(_message(error), job_number())
            _remove_output()
            return None
        if lines:
            lines.end(result)
        return result

    return run


def _remove_output() -> None:
    """Remove Hydra's folder of a rejected task, unless it has files of others."""
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    if hydra_config.output_subdir:
        rmtree(folder / hydra_config.output_subdir, ignore_errors=True)
    here = Path.cwd()
    for path in (folder, folder.parent):
        if path not in (here, *here.parents):
            with suppress(OSError):  # fails on a folder with files
                path.rmdir()


def check(overrides: list[str], multirun: bool) -> Config:
    """Validate all overrides; return the config of the first (or only) job.

    Raises:
        UserError: with the mistake and the closest match.
    """
    read = [parsed(text) for text in overrides]
    _check_hydra([o for o in read if _is_hydra(o)])
    if multirun:
        _check_swept_keys(read)
    choices = [list(values_of(o, multirun)) for o in read]
    if any(o.key_or_group == "experiment" and o.is_sweep_override() for o in read):
        _reject_experiment_keys(overrides)
    first = _compose([values[0] for values in choices])
    config = resolve(first)
    for i, values in enumerate(choices):
        for value in values[1:]:
            resolve(_compose([value if k == i else other[0] for k, other in enumerate(choices)]))
    return config


def _check_swept_keys(overrides: list[Override]) -> None:
    """Reject several values of a key that is the same for the whole sweep."""
    for override in overrides:
        key, line = override.key_or_group, _line(override)
        if override.is_sweep_override() and key.partition(".")[0] in ("resume", "sweep", "tracking"):
            text = f", or write it as {shell_override(key, line.partition('=')[2])}" if takes_text(key) else ""
            raise UserError(f"{line}: {key} takes one value for all jobs{text}")


def _sweep_jobs(overrides: list[str]) -> SweepJobs:
    """Return the jobs of a sweep of checked overrides."""
    return SweepJobs.of(overrides, [len(list(values_of(parsed(text), multirun=True))) for text in overrides])


def _reject_experiment_keys(overrides: list[str]) -> None:
    """Reject keys of a single experiment in a sweep over experiments, where Hydra does not know them."""
    for text in overrides:
        if text.startswith("experiment."):
            raise UserError(f"{text}: a sweep over experiments takes no experiment keys; run that experiment alone")


def composed(overrides: list[str]) -> tuple[Config, DictConfig]:
    """Return the validated config and Hydra's, composed from overrides without lists of values."""
    overrides = [quote_text(text) for text in overrides]
    check(overrides, multirun=False)
    cfg = _compose(overrides)
    return resolve(cfg), cfg


def parsed(text: str) -> Override:
    """Parse an override; raise `UserError` if Hydra cannot read it or its key is unknown."""
    override = read_override(quote_text(text))
    if override is None:
        raise UserError(_unreadable(text))
    key = override.key_or_group
    if override.package is not None:
        raise UserError(f"{text}: a group cannot be moved: leave @{override.package} out")
    if override.is_delete():
        raise UserError(f"{text}: keys cannot be deleted; choose another option of the group instead")
    if _is_hydra(override):
        return override
    _check_key(key, text)
    if key in folders.own_groups():
        if not override.is_add():
            raise UserError(f"{text}: no run has the group {key} of {folders.folders()[1]}: add it with +{text}")
    elif override.is_add() or override.is_force_add():
        raise UserError(f"{text}: keys cannot be added: {near(key, _keys(key.split('.')[0], []))}")
    return override


def _is_hydra(override: Override) -> bool:
    """Return whether an override is of Hydra's own config."""
    return override.key_or_group.replace("/", ".").split(".")[0] == "hydra"


def _check_hydra(overrides: list[Override]) -> None:
    """Reject unknown keys of Hydra's own config, and lists of values, which only the runs' config may have."""
    if not overrides:
        return
    for override in overrides:
        if override.is_sweep_override():
            raise UserError(f"{_line(override)}: {override.key_or_group} takes one value for all jobs")
    cfg = _compose([_line(o) for o in overrides if "/" in o.key_or_group], hydra=True)
    for override in overrides:
        if "/" not in override.key_or_group:
            _check_hydra_key(override, cfg)
    # The real job number is not known before the job runs.
    changed = _compose([*map(_line, overrides), "hydra.job.num=0"], hydra=True).hydra
    for key in ("run.dir", "sweep.dir", "sweep.subdir"):
        try:
            OmegaConf.select(changed, key)
        except OmegaConfBaseException as error:
            raise UserError(f"hydra.{key} cannot be resolved: {str(error).splitlines()[0]}") from None


def _check_hydra_key(override: Override, cfg: DictConfig) -> None:
    """Reject a key that Hydra's config does not have, or that is a group of keys."""
    key, line = override.key_or_group, _line(override)
    if key in HYDRA_INSTEAD:
        raise UserError(f"{line}: {HYDRA_INSTEAD[key]}")
    parent, _, name = key.rpartition(".")
    group = OmegaConf.select(cfg, parent) if parent else None
    if not isinstance(group, DictConfig):
        raise UserError(f"{line}: {parent or key} is not a group of keys of Hydra's config")
    known = [f"{parent}.{each}" for each in map(str, group) if not each.startswith("_")]
    fixed = dataclasses.is_dataclass(OmegaConf.get_type(group))
    if key not in known and (fixed or not override.is_add()):
        hint = near(key, known) if known else f"add {parent.replace('.', '/')}=NAME"
        raise UserError(f"{line}: {key} is unknown: {hint}")
    if key in known and OmegaConf.is_dict(group._get_node(name)):
        raise UserError(f"{line}: {key} is a group of keys: set one of them")


def _hydra_groups(group: str) -> list[str]:
    """Return the options of a group of Hydra's own config; for `hydra` itself, its groups."""
    loader = GlobalHydra.instance().config_loader()
    if group == "hydra":
        return [f"hydra/{name}" for name in loader.list_groups(group)]
    return loader.get_group_options(group)


def _unreadable(text: str) -> str:
    """Return the error message for an override that Hydra cannot parse."""
    key, _, value = text.partition("=")
    if not value or read_override(f"{key}=1") is None:
        return f"cannot read {text!r}: write KEY=VALUE, such as optimizer.lr=0.01"
    return f"cannot read {text!r}: as text that value is written {shell_override(key, value)}"


def _check_key(key: str, text: str) -> None:
    """Reject an unknown group or key."""
    groups = folders.groups()
    top = ["seed", "reduced", "resume", "sweep.resume", "imports"]
    if key in groups or key in top:
        return
    head, _, rest = key.partition(".")
    if head not in groups or not rest:
        parts = ((str(name), part) for name, part in _compose([]).items() if isinstance(part, DictConfig))
        inner = [f"{name}.{key}" for name, part in parts if key in part]
        hint = f"did you mean {' or '.join(inner)}?" if inner else near(key, [*groups, *top])
        raise UserError(f"{text}: {key} is not a config group or key: {hint}")


def _line(override: Override) -> str:
    return override.input_line or ""


def values_of(override: Override, multirun: bool) -> Iterator[str]:
    """Yield the override's text for each value that it sweeps over; unknown options of a group are rejected."""
    key = override.key_or_group
    line = _line(override)
    if override.is_sweep_override() and not multirun:
        text = f", or write it as {shell_override(key, line.partition('=')[2])}" if takes_text(key) else ""
        raise UserError(f"{line}: a list of values is a sweep: add -m{text}")
    if override.is_interval_sweep():
        raise UserError(f"{line}: a sweep goes over a list of values; an interval is for nl search")
    swept, given = override.value(), line.partition("=")[0]  # with the + of an added group
    if isinstance(swept, Glob):
        values = [f"{given}={name}" for name in swept.filter(sorted(folders.options(key)))]
    elif override.is_sweep_override():
        values = [f"{given}={value}" for value in override.sweep_string_iterator()]
    else:
        values = [line]
    if not values:
        raise UserError(f"{line}: no value matches, so nothing would run")
    for value in values:
        _check_option(key, value.partition("=")[2])
    yield from values


def _check_option(key: str, value: str) -> None:
    options = {} if key.startswith("hydra/") else folders.options(key)
    if options and value not in options:
        hint, names = near(value, options), ", ".join(sorted(options))
        raise UserError(f"{key}={value} is unknown: {hint}{'' if names in hint else f' (options: {names})'}")


def _compose(overrides: list[str], hydra: bool = False) -> DictConfig:
    """Compose the runs' config; with `hydra`, also Hydra's own, from overrides of both."""
    used = overrides if hydra else [o for o in overrides if not o.lstrip("+").startswith(("hydra.", "hydra/"))]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            return compose("config", overrides=[*folders.search_path(), *used], return_hydra_config=hydra)
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(_composition_error(error, used)) from None


def _composition_error(error: Exception, overrides: list[str]) -> str:
    """Return Hydra's message in one line, with the closest option or key."""
    message = str(error)
    for text in overrides:
        key, _, value = text.partition("=")
        if key.startswith("hydra/"):
            groups = _hydra_groups("hydra")
            if key not in groups:
                return f"{text}: {key} is not a group of Hydra's config: {near(key, groups)}"
            if f"'{key}/{value}'" in message:
                return f"{text} is unknown: {near(value, _hydra_groups(key))}"
        if f"Could not override '{key}'" in message:
            group = key.split(".")[0]
            known = _keys(group, overrides)
            if not known:
                return f"{key} is unknown: add {'+' * (group in folders.own_groups())}{group}=NAME"
            if key in known:
                return f"{text}: {key} takes no new keys here; add them to the file"
            return f"{key} is unknown: {near(key, known)}"
    if isinstance(error.__cause__, OmegaConfBaseException):
        message += f": {str(error.__cause__).splitlines()[0]}"
    return " ".join(message.split())


def _keys(group: str, overrides: list[str]) -> list[str]:
    cfg = _compose([o for o in overrides if "." not in o.partition("=")[0]])
    return [f"{group}.{key}" for key in cfg.get(group) or {} if key != "_target_"]


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Return whether a command line asks for help."""
    return bool({"--help", "-h"} & set(arguments))
