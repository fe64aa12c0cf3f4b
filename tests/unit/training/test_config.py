"""The files in conf/ match the schema, and options of all groups can be combined."""

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, get_args, get_origin, get_type_hints

import pytest
import yaml
from omegaconf import OmegaConf
from support.assertions import refused

from nl_nodes import UserError
from nl_nodes.arguments import Range, near
from nl_training.config import build
from nl_training.config.cli import CONF, _compose, check
from nl_training.config.resolve import _shown, named, resolve
from nl_training.config.schema import TARGETS, Config
from nl_training.tracking.provenance import flatten

GROUPS = {
    folder.name: sorted(path.stem for path in folder.glob("*.yaml"))
    for folder in sorted(CONF.iterdir())
    if folder.is_dir() and folder.name not in ("experiment", "debug")
}


@pytest.mark.parametrize(("group", "option"), [(g, o) for g, options in GROUPS.items() for o in options])
def test_every_option_fits_the_schema_and_documents_its_keys(group: str, option: str) -> None:
    config = resolve(_compose([f"{group}={option}"]))
    chosen = getattr(config, group)
    names = {field.name for field in dataclasses.fields(chosen)}
    path = CONF / group / f"{option}.yaml"
    written = yaml.safe_load(path.read_text())
    own = set(written) - {"_target_", "defaults"}
    assert own <= names
    if "defaults" not in written:
        assert own == names
    for line in path.read_text().splitlines():
        key, _, rest = line.partition(":")
        if key in names - {"name", "enabled", "experiment_name"} and "defaults" not in written:
            assert "#" in rest, f"{path.name} does not explain {key}"


@pytest.mark.parametrize("group", [group for group in GROUPS if group not in ("tracking", "search")])
def test_options_of_a_group_are_told_apart_by_what_is_logged(group: str) -> None:
    """Otherwise two settings of a sweep would be taken for one with more seeds."""
    composed = [_compose([f"{group}={option}"]) for option in GROUPS[group]]
    logged = {tuple(flatten(named(resolve(cfg), cfg)).items()) for cfg in composed}
    assert len(logged) == len(GROUPS[group])


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("tracking.tags={mlflow.user: me}", ["mlflow.user", "reserved"]),
        ("tracking.tags={best.run: x}", ["best.run", "reserved", "best.*"]),
        ("tracking.tags={project: [a, b]}", ["tracking.tags=", "must be", "text", "number"]),
        ("tracking.tags=project", ["tracking.tags=project", "must be a group of keys"]),
        ("tracking.tags={a/b: x}", ["'a/b'", "letters, digits"]),
        ("tracking.tags.project=a", ["did you mean tracking.tags?"]),
    ],
)
def test_bad_tag_is_refused(override: str, words: list[str]) -> None:
    with refused(*words):
        check([override], multirun=False)


def test_a_list_is_described_in_words() -> None:
    with refused("regularization.augment=3 must be", "or a list of values, each "):
        check(["regularization.augment=3"], multirun=False)


def test_a_sweep_has_one_name() -> None:
    with refused("tracking.name=a,b", "one value for all jobs", 'tracking.name="a,b"'):
        check(["tracking.name=a,b", "seed=0,1"], multirun=True)


def pairs(row: dict[str, str]) -> set[frozenset[tuple[str, str]]]:
    return {frozenset(pair) for pair in itertools.combinations(row.items(), 2)}


def covering_rows() -> Iterator[dict[str, str]]:
    """Return a few combinations of options that contain every pair of options of different groups."""
    everything = [(group, option) for group, options in GROUPS.items() for option in options]
    left = {frozenset((a, b)) for a, b in itertools.combinations(everything, 2) if a[0] != b[0]}
    while left:
        row = dict(min(left, key=sorted))
        for group in [g for g in GROUPS if g not in row]:
            row[group] = max(GROUPS[group], key=lambda option: len(left & pairs({**row, group: option})))
        left -= pairs(row)
        yield row


@pytest.mark.parametrize("row", list(covering_rows()), ids=lambda row: "-".join(row[group] for group in GROUPS))
def test_any_two_options_of_different_groups_are_compatible(row: dict[str, str]) -> None:
    config = resolve(_compose([f"{group}={option}" for group, option in row.items()]))
    written = {group: yaml.safe_load((CONF / group / f"{option}.yaml").read_text()) for group, option in row.items()}
    for group, values in written.items():
        own = {key: value for key, value in values.items() if key not in ("_target_", "defaults", "weight_decay")}
        found = dataclasses.asdict(getattr(config, group))
        for key, value in own.items():
            assert found[key] == (tuple(value) if isinstance(value, list) else _number(value)), f"{group}.{key}"


def _number(value: object) -> object:
    """Return a number such as 1e-8, which YAML reads as text and OmegaConf as a number."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def ranged(config: Config) -> Iterator[tuple[str, type, Range]]:
    """Yield every config key whose value has a range, with its type and range."""
    for group in dataclasses.fields(config):
        part = getattr(config, group.name)
        owner, prefix = (part, f"{group.name}.") if dataclasses.is_dataclass(part) else (config, "")
        hints = get_type_hints(type(owner), include_extras=True)
        for key, hint in hints.items() if prefix else [(group.name, hints[group.name])]:
            for form in (hint, *get_args(hint)):
                if get_origin(form) is Annotated and isinstance(interval := get_args(form)[1].values, Range):
                    yield prefix + key, get_args(form)[0], interval


RANGED = {
    (key, kind, interval): row
    for row in ([f"{group}={option}"] for group in TARGETS for option in GROUPS[group])
    for key, kind, interval in ranged(check(row, multirun=False))
}


@pytest.mark.parametrize("found", list(RANGED), ids=lambda found: found[0])
def test_every_value_out_of_its_range_is_refused(found: tuple[str, type, Range]) -> None:
    key, kind, interval = found
    edges = [interval.above, interval.at_least - 1, interval.at_most + 1, interval.below, float("nan")]
    bad = [*edges, float("inf"), float("-inf"), "text", [], True, -(10**30)]
    bad += [1.5, 2.0] if kind is int else [10**400]
    cfg = _compose(RANGED[found])
    good = OmegaConf.select(cfg, key)
    for value in bad:
        OmegaConf.update(cfg, key, value)
        with pytest.raises(UserError) as error:
            resolve(cfg)
        assert f"{key}={_shown(value)} must be" in str(error.value)
        assert interval.description in str(error.value)
    OmegaConf.update(cfg, key, good)
    resolve(cfg)


def test_keys_with_ranges_are_found() -> None:
    keys = {key for key, _, _ in RANGED}
    assert {"optimizer.lr", "optimizer.momentum", "schedule.gamma", "regularization.dropout", "trainer.epochs"} <= keys
    assert {"trainer.max_steps", "model.init", "model.width", "device.threads", "seed", "verify.probe_every"} <= keys


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("regularization.dropout", 0), ("optimizer.beta1", 0), ("schedule.final", 1), ("schedule.warmup", 0),
        ("trainer.epochs", 1), ("trainer.target_accuracy", 1), ("model.width", 4), ("data.validation", 0), ("seed", 0),
    ],
)  # fmt: skip
def test_inclusive_bound_is_accepted(key: str, value: int) -> None:
    cfg = _compose([f"{key}={value}"])
    found = resolve(cfg)
    for name in key.split("."):
        found = getattr(found, name)
    assert found == value


@pytest.mark.parametrize(
    "override",
    [
        "optimizer.lr=0", "optimizer.beta1=1", "optimizer.beta2=-0.1", "optimizer.eps=0", "schedule.warmup=-1",
        "schedule.final=1.1", "regularization.weight_decay=-0.001", "regularization.dropout=1", "data.validation=1",
        "trainer.epochs=0", "trainer.batch_size=0", "trainer.max_steps=0", "trainer.target_accuracy=0",
        "trainer.target_accuracy=1.01", "trainer.checkpoint_every_steps=0", "trainer.checkpoint_every_seconds=0",
        "model.width=3", "model.init=0", "device.threads=0", "device.index=-1", "verify.max_seconds=0",
        "verify.probe_every=0", "trainer.curvature_every=0", "seed=-1",
    ],
)  # fmt: skip
def test_exclusive_bound_is_refused(override: str) -> None:
    with pytest.raises(UserError, match=f"^{override} must be"):
        resolve(_compose([override]))


@pytest.mark.parametrize(
    ("word", "known", "hint"),
    [
        ("vgg61", ["vgg11", "vgg16", "mlp"], "did you mean vgg16?"),
        ("epoch", ["epochs", "batch_size"], "did you mean epochs?"),
        ("zzz", ["b", "a"], "it may be a, b"),
    ],
)
def test_hint_is_the_nearest_match_or_all_options(word: str, known: list[str], hint: str) -> None:
    assert near(word, known) == hint


@pytest.mark.parametrize("group", list(TARGETS))
@pytest.mark.parametrize("target", ["os.system", "nl_layers.optimizers.Optimizer", None, ["nl_layers.optimizers.SGD"]])
def test_only_known_targets_are_instantiated(group: str, target: object) -> None:
    cfg = _compose([])
    cfg[group]["_target_"] = target
    with pytest.raises(UserError, match=rf"{group}._target_="):
        resolve(cfg)


def test_override_beside_an_experiment_takes_precedence() -> None:
    assert check(["experiment=race", "trainer.epochs=3", "seed=9"], multirun=False).trainer.epochs == 3
    assert check(["experiment=race", "seed=9"], multirun=False).seed == 9


def test_every_target_can_be_instantiated_from_its_file() -> None:
    for optimizer in GROUPS["optimizer"]:
        assert build.optimizer(_compose([f"optimizer={optimizer}"])).lr > 0
    for schedule in GROUPS["schedule"]:
        assert build.schedule(_compose([f"schedule={schedule}"])).factor(1.0, 10.0) > 0
    files = [yaml.safe_load(p.read_text()) for g in TARGETS for p in (CONF / g).glob("*.yaml")]
    assert {file["_target_"] for file in files} == {target for group in TARGETS.values() for target in group}


def test_adamw_uses_the_regularization_groups_weight_decay() -> None:
    cfg = _compose(["optimizer=adamw", "regularization.weight_decay=0.03"])
    assert build.optimizer(cfg).weight_decay == 0.03


def test_a_sweep_is_checked_before_it_starts() -> None:
    assert check(["model=mlp,cnn3", "optimizer.lr=0.1,0.2"], multirun=True).model.name == "mlp"
    with pytest.raises(UserError, match=r"optimizer.lr=-1"):
        check(["model=mlp,cnn3", "optimizer.lr=0.1,-1"], multirun=True)
    with pytest.raises(UserError, match="vgg61"):
        check(["model=mlp,vgg61"], multirun=True)


@pytest.mark.parametrize("override", ["seed=interval(0,1)", "experiment=glob(none*)", "model@x=mlp", "hydra@x=mlp"])
def test_invalid_sweep_is_refused(override: str) -> None:
    """A fuzzer found these; they ended in tracebacks, the third after minutes."""
    with refused(override):
        check([override], multirun=True)


def test_typo_in_a_config_group_file_is_reported(tmp_path: Path) -> None:
    cfg = _compose([])
    cfg.optimizer = {"_target_": "nl_layers.optimizers.SGD", "lrr": 0.1}
    with pytest.raises(UserError, match=r"optimizer.lrr is unknown: did you mean lr\?"):
        resolve(cfg)
