"""The files in conf/ and the schema are alike, and every group goes with every other."""

import dataclasses
import itertools
from pathlib import Path

import pytest
import yaml

from nl_nodes import UserError
from nl_training.config import build
from nl_training.config.cli import CONF, _compose, check
from nl_training.config.resolve import resolve
from nl_training.config.schema import TARGETS

GROUPS = {
    folder.name: sorted(path.stem for path in folder.glob("*.yaml"))
    for folder in sorted(CONF.iterdir())
    if folder.is_dir() and folder.name != "experiment"
}


@pytest.mark.parametrize(("group", "option"), [(g, o) for g, options in GROUPS.items() for o in options])
def test_every_option_fits_the_schema_and_explains_its_keys(group: str, option: str) -> None:
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
            assert "#" in rest, f"{path.name} does not say what {key} means"


def test_options_of_any_two_groups_go_together() -> None:
    for (a, options), (b, others) in itertools.combinations(GROUPS.items(), 2):
        for one, other in itertools.product(options[:2], others[:2]):
            resolve(_compose([f"{a}={one}", f"{b}={other}"]))


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "experiment").glob("*.yaml")))
def test_experiments_compose(name: str) -> None:
    check([f"experiment={name}"], multirun=False)


def test_what_is_given_beside_an_experiment_wins() -> None:
    assert check(["experiment=race", "trainer.epochs=3", "seed=9"], multirun=False).trainer.epochs == 3
    assert check(["experiment=race", "seed=9"], multirun=False).seed == 9


def test_every_target_can_be_made_from_its_file() -> None:
    for optimizer in GROUPS["optimizer"]:
        assert build.optimizer(_compose([f"optimizer={optimizer}"])).lr > 0
    for schedule in GROUPS["schedule"]:
        assert build.schedule(_compose([f"schedule={schedule}"])).factor(1.0, 10.0) > 0
    files = [yaml.safe_load(p.read_text()) for g in TARGETS for p in (CONF / g).glob("*.yaml")]
    assert {file["_target_"] for file in files} == {target for group in TARGETS.values() for target in group}


def test_adamw_takes_the_regularizations_decay() -> None:
    cfg = _compose(["optimizer=adamw", "regularization.weight_decay=0.03"])
    assert build.optimizer(cfg).weight_decay == 0.03


def test_a_sweep_is_checked_before_it_starts() -> None:
    assert check(["model=mlp,cnn3", "optimizer.lr=0.1,0.2"], multirun=True).model.name == "mlp"
    with pytest.raises(UserError, match=r"optimizer.lr=-1"):
        check(["model=mlp,cnn3", "optimizer.lr=0.1,-1"], multirun=True)
    with pytest.raises(UserError, match="vgg61"):
        check(["model=mlp,vgg61"], multirun=True)


def test_a_typo_in_a_groups_file_is_told(tmp_path: Path) -> None:
    cfg = _compose([])
    cfg.optimizer = {"_target_": "nl_layers.optimizers.SGD", "lrr": 0.1}
    with pytest.raises(UserError, match=r"optimizer.lrr is unknown: did you mean lr\?"):
        resolve(cfg)
