"""The command line of the scripts: Hydra's, with every mistake told in a line before anything starts."""

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
from nl_training.config.arguments import COMPLETION, split
from nl_training.config.failures import Failures, kept_folder, passing_folder
from nl_training.config.launchers import launcher, on_other_machines
from nl_training.config.quoting import read_override, readable, takes_text, typed
from nl_training.config.resolve import near, reduced, resolve
from nl_training.config.schema import Config
from nl_training.paths import ROOT, output_root
from nl_training.terminal import show_what_it_can

CONF = ROOT / "conf"
Task = Callable[[Config, DictConfig], Any]
Sweep = Callable[[Config, list[str]], AbstractContextManager[Mapping[str, str]]]

STOPPED = 128 + signal.SIGINT  # what a shell makes of that signal
# Keys of Hydra's own config for which the scripts have a way that they check.
HYDRA_INSTEAD = {"hydra.mode": "-m makes a sweep", "hydra.sweeper.params": "a sweep is KEY=VALUE,VALUE with -m"}
OmegaConf.register_new_resolver("nl_output", lambda: str(output_root()), replace=True)


def main(task: Task, sweep: Sweep | None = None) -> None:
    """Run a task on the config that the command line composes; end the process with code 1 on a mistake.

    Args:
        task: gets the checked config and Hydra's.
        sweep: with `-m`, what holds the jobs together: given the first job's config and the overrides, it gives the
            environment variables that the jobs need.
    """
    with script():
        given = split(sys.argv[1:])
        overrides = [readable(text) for text in given.overrides]
        around: AbstractContextManager[Mapping[str, str]] = nullcontext({})
        held: AbstractContextManager[None] = nullcontext()
        place = passing_folder()
        if COMPLETION not in given.flags:
            if given.runs:
                _check_folders()
                held = launcher(overrides)
            first = check(overrides, given.multirun)
            if given.runs and ((sweep is not None and first.tracking.enabled) or on_other_machines(overrides)):
                place = kept_folder()
            if given.multirun and sweep is not None:
                around = sweep(first, overrides)
        with place as (failures, moved), around as environment, held:
            given = dataclasses.replace(given, overrides=[*moved, *overrides] if given.runs else overrides)
            sys.argv[1:] = given.ordered()
            run = _guarded(task, failures, environment)
            hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(run)()
            if told := failures.take():  # inside, so that the sweep's parent knows of them
                raise UserError("\nerror: ".join(told))


@contextmanager
def script() -> Iterator[None]:
    """Hold all that a script does: a mistake ends the process with a line and code 1, an interrupt with its code."""
    show_what_it_can()
    try:
        yield
    except (UserError, MemoryError) as error:
        sys.exit(f"error: {_told(error)}")
    except KeyboardInterrupt:
        sys.exit(STOPPED)


def _told(error: Exception) -> str:
    return f"not enough memory: {error}".removesuffix(": ") if isinstance(error, MemoryError) else str(error)


def _check_folders() -> None:
    """Refuse folders whose names Hydra takes for interpolations."""
    for folder in (Path.cwd(), ROOT, output_root()):
        if "${" in str(folder):
            raise UserError(f"Hydra cannot read the path {folder}: leave ${{ out of it")


def _guarded(task: Task, failures: Failures, environment: Mapping[str, str]) -> Callable[[DictConfig], Any]:
    """The task as Hydra calls it: what the user can mend is noted, and the other jobs of a sweep go on."""

    def run(cfg: DictConfig) -> Any:
        show_what_it_can()  # a worker's streams are its own
        os.environ.update(environment)  # a cluster's workers, which stood before the sweep, have their own
        try:
            return task(resolve(cfg), reduced(cfg))
        except (UserError, MemoryError) as error:
            failures.add(_told(error), job_number())
            _remove_output()
            return None

    return run


def _remove_output() -> None:
    """Remove the folder that Hydra made for a task that was refused, unless it holds more than Hydra's own."""
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    if hydra_config.output_subdir:
        rmtree(folder / hydra_config.output_subdir, ignore_errors=True)
    here = Path.cwd()
    for path in (folder, folder.parent):
        if path not in (here, *here.parents):
            with suppress(OSError):  # one that is not empty stays
                path.rmdir()


def job_number() -> int | None:
    """Which job of a sweep runs, None in a single run."""
    job = HydraConfig.get().job
    return None if OmegaConf.is_missing(job, "num") else int(job.num)


def check(overrides: list[str], multirun: bool) -> Config:
    """Refuse every override that cannot be meant; return the config of the first (or only) job.

    Raises:
        UserError: with what is wrong and the near match.
    """
    read = [parsed(text) for text in overrides]
    _check_hydra([o for o in read if _is_hydra(o)])
    choices = [list(values_of(o, multirun)) for o in read]
    if any(o.key_or_group == "experiment" and o.is_sweep_override() for o in read):
        _refuse_keys_of_one(overrides)
    first = _compose([values[0] for values in choices])
    config = resolve(first)
    for i, values in enumerate(choices):
        for value in values[1:]:
            resolve(_compose([value if k == i else other[0] for k, other in enumerate(choices)]))
    return config


def _refuse_keys_of_one(overrides: list[str]) -> None:
    """Refuse keys that experiments have each for themselves, in a sweep over experiments: Hydra knows none of them."""
    for text in overrides:
        if text.startswith("experiment."):
            raise UserError(f"{text}: a sweep over experiments takes no key of theirs; run that one by itself")


def composed(overrides: list[str]) -> tuple[Config, DictConfig]:
    """The checked config and Hydra's that overrides of single values compose."""
    overrides = [readable(text) for text in overrides]
    check(overrides, multirun=False)
    cfg = _compose(overrides)
    return resolve(cfg), cfg


def parsed(text: str) -> Override:
    """An override as Hydra reads it; raises `UserError` where it can't be read or names no group or key."""
    override = read_override(readable(text))
    if override is None:
        raise UserError(_unreadable(text))
    key = override.key_or_group
    if override.package is not None:
        raise UserError(f"{text}: a group has one place, its own: leave @{override.package} out")
    if override.is_delete():
        raise UserError(f"{text}: nothing can be left out; choose another option of the group instead")
    if _is_hydra(override):
        return override
    _known(key, text)
    if override.is_add() or override.is_force_add():
        raise UserError(f"{text}: no key can be added: {near(key, _keys(key.split('.')[0], []))}")
    return override


def _is_hydra(override: Override) -> bool:
    """Whether it changes Hydra's own config."""
    return override.key_or_group.replace("/", ".").split(".")[0] == "hydra"


def _check_hydra(overrides: list[Override]) -> None:
    """Refuse what Hydra's own config doesn't have, and lists: a sweep goes over the runs' config."""
    if not overrides:
        return
    for override in overrides:
        if override.is_sweep_override():
            raise UserError(f"{_line(override)}: {override.key_or_group} takes one value for all jobs")
    whole = _compose([_line(o) for o in overrides if "/" in o.key_or_group], hydra=True)
    for override in overrides:
        if "/" not in override.key_or_group:
            _known_to_hydra(override, whole)
    # A job's number is known when it runs.
    changed = _compose([*map(_line, overrides), "hydra.job.num=0"], hydra=True).hydra
    for key in ("run.dir", "sweep.dir", "sweep.subdir"):
        try:
            OmegaConf.select(changed, key)
        except OmegaConfBaseException as error:
            raise UserError(f"hydra.{key} cannot be resolved: {str(error).splitlines()[0]}") from None


def _known_to_hydra(override: Override, whole: DictConfig) -> None:
    """Refuse a key that Hydra's config has not, or that stands for several."""
    key, line = override.key_or_group, _line(override)
    if key in HYDRA_INSTEAD:
        raise UserError(f"{line}: {HYDRA_INSTEAD[key]}")
    above, _, name = key.rpartition(".")
    group = OmegaConf.select(whole, above) if above else None
    if not isinstance(group, DictConfig):
        raise UserError(f"{line}: {above or key} is no group of keys of Hydra's config")
    known = [f"{above}.{each}" for each in map(str, group) if not each.startswith("_")]
    fixed = dataclasses.is_dataclass(OmegaConf.get_type(group))
    if key not in known and (fixed or not override.is_add()):
        hint = near(key, known) if known else f"choose {above.replace('.', '/')}=NAME beside it"
        raise UserError(f"{line}: {key} is unknown: {hint}")
    if key in known and OmegaConf.is_dict(group._get_node(name)):
        raise UserError(f"{line}: {key} is a group of keys: set one of them")


def _hydra_groups(group: str) -> list[str]:
    """The options of a group of Hydra's own config; of `hydra` itself its groups."""
    loader = GlobalHydra.instance().config_loader()
    if group == "hydra":
        return [f"hydra/{name}" for name in loader.list_groups(group)]
    return loader.get_group_options(group)


def _unreadable(text: str) -> str:
    """What is wrong with an override that Hydra cannot read."""
    key, _, value = text.partition("=")
    if not value or read_override(f"{key}=1") is None:
        return f"cannot read {text!r}: write KEY=VALUE, such as optimizer.lr=0.01"
    return f"cannot read {text!r}: as text that value is written {typed(key, value)}"


def _known(key: str, text: str) -> None:
    """Refuse a group or key that is none."""
    groups = sorted(p.name for p in CONF.iterdir() if p.is_dir())
    top = ["seed", "reduced", "resume", "sweep.resume"]
    if key in groups or key in top:
        return
    head, _, rest = key.partition(".")
    if head not in groups or not rest:
        raise UserError(f"{text}: {key} is no config group or key: {near(key, [*groups, *top])}")


def _line(override: Override) -> str:
    return override.input_line or ""


def values_of(override: Override, multirun: bool) -> Iterator[str]:
    """The override's text for each value that it sweeps over, its options checked."""
    key = override.key_or_group
    line = _line(override)
    if override.is_sweep_override() and not multirun:
        text = f", or write it as {typed(key, line.partition('=')[2])}" if takes_text(key) else ""
        raise UserError(f"{line}: a list of values is a sweep: add -m{text}")
    if override.is_interval_sweep():
        raise UserError(f"{line}: a sweep goes over a list of values; an interval is for scripts/search.py")
    swept = override.value()
    if isinstance(swept, Glob):
        values = [f"{key}={name}" for name in swept.filter(sorted(p.stem for p in (CONF / key).glob("*.yaml")))]
    elif override.is_sweep_override():
        values = [f"{key}={value}" for value in override.sweep_string_iterator()]
    else:
        values = [line]
    if not values:
        raise UserError(f"{line}: no value fits this, so nothing would be run")
    for value in values:
        _option(key, value.partition("=")[2])
    yield from values


def _option(key: str, value: str) -> None:
    folder = CONF / key
    if folder.is_dir() and key != "hydra":
        options = [p.stem for p in folder.glob("*.yaml")]
        if value not in options:
            raise UserError(f"{key}={value} is unknown: {near(value, options)} (options: {', '.join(sorted(options))})")


def _compose(overrides: list[str], hydra: bool = False) -> DictConfig:
    """Compose the runs' config; with `hydra`, Hydra's own from overrides of that."""
    mine = overrides if hydra else [o for o in overrides if not o.lstrip("+").startswith(("hydra.", "hydra/"))]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            return compose("config", overrides=mine, return_hydra_config=hydra)
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(_composition_error(error, mine)) from None


def _composition_error(error: Exception, overrides: list[str]) -> str:
    """What Hydra says, in one line, with the near option or key."""
    message = str(error)
    for text in overrides:
        key, _, value = text.partition("=")
        if key.startswith("hydra/"):
            groups = _hydra_groups("hydra")
            if key not in groups:
                return f"{text}: {key} is no group of Hydra's config: {near(key, groups)}"
            if f"'{key}/{value}'" in message:
                return f"{text} is unknown: {near(value, _hydra_groups(key))}"
        if f"Could not override '{key}'" in message:
            group = key.split(".")[0]
            known = _keys(group, overrides)
            if not known:
                return f"{key} is unknown: choose {group}=NAME beside it"
            if key in known:
                return f"{text}: {key} takes no new keys here; write them into the file"
            return f"{key} is unknown: {near(key, known)}"
    if isinstance(error.__cause__, OmegaConfBaseException):
        message += f": {str(error.__cause__).splitlines()[0]}"
    return " ".join(message.split())


def _keys(group: str, overrides: list[str]) -> list[str]:
    chosen = [o for o in overrides if "." not in o.partition("=")[0]]
    cfg = _compose(chosen)
    return [f"{group}.{key}" for key in cfg.get(group) or {} if key != "_target_"]


def _heeded(text: str, keys: Sequence[str]) -> bool:
    """Whether an override is of one of these groups or keys."""
    key = text.partition("=")[0]
    return key in keys or key.partition(".")[0] in keys


def run_command(
    task: Callable[[str, Config, list[str]], None], help_text: str, takes: Sequence[str] = (), words: bool = False
) -> None:
    """Run a task on a logged run, named by `run=ID` on the command line; end with code 1 on a mistake.

    Args:
        task: gets the run's ID, the config that the overrides compose, and the other arguments.
        help_text: what `--help` shows.
        takes: the config's groups and keys that the task heeds, beside those that say where the run is.
        words: whether the other arguments are the task's own; else they are overrides of the config.
    """
    arguments = sys.argv[1:]
    if {"--help", "-h"} & set(arguments):
        print(help_text)
        return
    named = [a for a in arguments if a.startswith("run=")]
    others = [a for a in arguments if not a.startswith("run=")]
    heeded = (*takes, "tracking.uri", "tracking.experiment_name")
    placing = [a for a in others if _heeded(a, heeded)]
    with script():
        if len(named) != 1 or named[0] == "run=":
            raise UserError("which run? run=ID, from the MLflow UI or the end of a training, or run=latest")
        overrides = placing if words else others
        config = check([readable(text) for text in overrides], multirun=False)
        for text in overrides:
            if text not in placing:
                raise UserError(f"{text}: the run has its own config; only {', '.join(heeded)} may stand beside it")
        task(named[0].removeprefix("run="), config, [a for a in others if not words or a not in placing])
