"""Options and code of the user's own: `--config-dir`, `imports` and entry points."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from support.assertions import refused
from support.scripts import run_script

from nl_models import MODELS
from nl_training.config import build, folders, plugins
from nl_training.config.cli import check, composed
from nl_training.config.experiments import STUDIES
from nl_training.config.resolve import named
from nl_training.config.schema import GROUPS, NAMED, TARGETS
from nl_training.data import READERS
from nl_training.experiments.runner import study
from nl_training.paths import CONF
from nl_training.tracking.parent_page import VIEW

MODULE = '''
from dataclasses import dataclass

from nl_layers.optimizers import SGD
from nl_models import MODELS, mlp
from nl_training.config.experiments import STUDIES, ExperimentConfig
from nl_training.config.ranges import Count, Share
from nl_training.config.schema import GROUPS, NAMED, TARGETS, DataConfig, ModelConfig, SGDConfig
from nl_training.data import READERS


def mine(depth=1, width=8, **options):
    net = mlp(hidden=[width] * depth, width=width, **options)
    net.spec |= {"name": "mine", "depth": depth}
    del net.spec["hidden"]
    return net


def noisy(root, noise):
    """The digits; `noise` is ignored."""
    return READERS["digits"](root)


class Half(SGD):
    """Half the step."""


@dataclass(frozen=True)
class MineConfig(ModelConfig):
    depth: Count


@dataclass(frozen=True)
class NoisyConfig(DataConfig):
    noise: Share


@dataclass(frozen=True)
class FlipConfig:
    p: Share


def run(config, cfg):
    return config.own["augment"].p


MODELS["mine"] = mine
READERS["noisy"] = noisy
NAMED["model"]["mine"] = MineConfig
NAMED["data"]["noisy"] = NoisyConfig
TARGETS["optimizer"]["MODULE.Half"] = SGDConfig
GROUPS["augment"] = FlipConfig
STUDIES["MODULE"] = ExperimentConfig
'''
FILES = {
    "model/mine.yaml": "name: mine\nwidth: 8\ndepth: 2\nactivation: relu\ninit: he\n",
    "data/noisy.yaml": "name: noisy\nroot: null\nvalidation: 0.1\nnormalize: true\nnoise: 0.5\n",
    "optimizer/half.yaml": "_target_: MODULE.Half\nlr: 0.1\n",
    "augment/flip.yaml": "p: 0.25\n",
    "experiment/own.yaml": (
        "# @package _global_\nexperiment: {name: own, study: MODULE, title: t, source: s, see: s, small: {}}\n"
    ),
}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[str]:
    """A folder with a module, whose name it returns, and `myconf`; what the module adds is removed afterwards."""
    name = f"own_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(MODULE.replace("MODULE", name))
    for path, text in FILES.items():
        (tmp_path / "myconf" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "myconf" / path).write_text(text.replace("MODULE", name))
    registries: list[dict[str, Any]] = [MODELS, READERS, GROUPS, STUDIES, *NAMED.values(), *TARGETS.values()]
    before = [dict(registry) for registry in registries]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv(folders.OWN, "")  # restored afterwards
    assert folders.take_own(["a=b", "--config-dir", "myconf", "-m"]) == ["a=b", "-m"]
    yield name
    for registry, entries in zip(registries, before, strict=True):
        registry.clear()
        registry.update(entries)


def test_own_options_are_composed_validated_and_built(own: str) -> None:
    chosen = ["model=mine", "data=noisy", "optimizer=half", "+augment=flip", f"imports=[{own}]"]
    config, cfg = composed(["experiment=own", *chosen, "model.depth=3"])
    data = build.dataset(config)
    net = build.network(config, data, build.device(config))
    assert (net.name, net.spec["depth"], data.name) == ("mlp", 3, "noisy")
    assert type(build.optimizer(cfg)).__name__ == "Half"
    assert study(config.experiment.study)(config, cfg) == 0.25
    values = named(config, cfg)
    assert (values["augment"], values["optimizer"]["name"]) == ({"p": 0.25}, "half")
    assert "own" not in values
    for wrong, *words in (
        ["model.depth=0", "model.depth=0", "1 or more"],
        ["model.dept=1", "model.depth?"],
        ["data.noise=1", "data.noise=1"],
        ["augment.p=2", "augment.p=2"],
        ["augment.q=1", "augment.p?"],
        ["optimizer.momentum=1", "optimizer.momentum"],
    ):
        with refused(*words):
            check([*chosen, wrong], multirun=False)


def test_a_sweep_goes_over_own_options(own: str) -> None:
    (Path("myconf") / "augment/none.yaml").write_text("p: 0\n")
    check([f"imports=[{own}]", "model=mine,mlp", "+augment=flip,none", "hydra/launcher=joblib"], multirun=True)
    assert folders.flags() == [f"--config-dir={Path.cwd()}/myconf"]
    with refused("augment=nope", "none?"):
        check([f"imports=[{own}]", "+augment=flip,nope"], multirun=True)


def test_the_jobs_of_an_added_group_are_named_by_its_options(own: str, tmp_path: Path) -> None:
    (Path("myconf") / "augment/none.yaml").write_text("p: 0\n")
    environment = {**os.environ, "NL_OUTPUT": str(tmp_path / "out"), folders.OWN: ""}
    given = ["--config-dir", "myconf", "model=mine", f"imports=[{own}]", "data=digits", "trainer.max_steps=1"]
    swept = ["-m", "+augment=flip,none", "verify=off", "tracking.model=never", "tracking.pictures=never"]
    done = run_script("train.py", *given, *swept, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "job 1 of 2: flip\n" in done.stdout
    assert "job 2 of 2: none\n" in done.stdout
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/out/mlflow.db")
    views = [text for e in client.search_experiments() for name, text in e.tags.items() if name.startswith(VIEW)]
    assert ['"selectedParams":["augment.p"]' in view for view in views] == [True]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["model=mine"], ["model.name=mine", "imports=[MODULE]"]),
        (["model=mne"], ["model=mne", "mine?"]),
        (["augment=flip"], ["+augment=flip"]),
        (["+augment=flip"], ["augment has no schema", "GROUPS"]),
        (["+model=mine"], ["keys cannot be added"]),
        (["imports=tiny"], ["imports=tiny", "a list"]),
        (["imports=[tiny]"], ["imports=[tiny]", "no module tiny"]),
        (["imports=[wrong]"], ["imports=[wrong]", "NameError", "wrong.py:2"]),
        (["imports=[needs]"], ["imports=[needs]", "No module named 'nothing'"]),
        (["hydra.searchpath=[x]"], ["hydra.searchpath", "--config-dir"]),
    ],
    ids=" ".join,
)
def test_wrong_use_is_refused_in_one_line(own: str, arguments: list[str], words: list[str]) -> None:
    Path("wrong.py").write_text("x = 1\ny = z\n")
    Path("needs.py").write_text("import nothing\n")
    with refused(*words):
        check(arguments, multirun=False)


@pytest.mark.parametrize(
    ("prepare", "arguments", "words"),
    [
        (lambda: None, ["--config-dir=nowhere"], ["nowhere"]),
        (lambda: None, ["seed=1", "--config-dir"], ["--config-dir takes a folder"]),
        (lambda: Path("myconf/model/mlp.yaml").touch(), ["-cd", "myconf"], ["model/mlp.yaml", "rename"]),
    ],
)
def test_wrong_folder_is_refused(own: str, prepare: Callable[[], None], arguments: list[str], words: list[str]) -> None:
    prepare()
    with refused(*words):
        folders.take_own(arguments)


def test_without_a_folder_of_ones_own_only_ours_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(folders.OWN, raising=False)
    assert (folders.folders(), folders.own_groups(), folders.environment()) == ([CONF], [], {})


def test_plugins_of_installed_packages_are_imported(tmp_path: Path, own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "mine-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[{plugins.GROUP}]\nmine = {own}\n")
    monkeypatch.syspath_prepend(tmp_path)
    plugins._load_installed.cache_clear()
    assert check(["model=mine"], multirun=False).model.name == "mine"
    (info / "entry_points.txt").write_text(f"[{plugins.GROUP}]\nmine = missing_module\n")
    plugins._load_installed.cache_clear()
    with refused("the installed plugin mine = missing_module", "ModuleNotFoundError"):
        check([], multirun=False)
    (info / "entry_points.txt").unlink()
    plugins._load_installed.cache_clear()


def test_a_command_trains_and_shows_an_own_model(own: str, tmp_path: Path) -> None:
    nl = "from nl_training.__main__ import main; main()"
    environment = {**os.environ, "NL_OUTPUT": str(tmp_path / "out"), folders.OWN: ""}
    given = ["--config-dir", "myconf", "model=mine", f"imports=[{own}]", "data=digits", "trainer.max_steps=2"]
    trained = run_script("-c", nl, "train", *given, "verify=off", env=environment, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert "mlp(input (1, 8, 8)" in trained.stdout
    evaluated = run_script("-c", nl, "evaluate", "run=latest", env=environment, cwd=tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr
    assert "test accuracy" in evaluated.stdout
    assert {path.name for path in tmp_path.iterdir()} - {"__pycache__"} == {f"{own}.py", "myconf", "out"}
