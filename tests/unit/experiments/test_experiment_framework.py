"""The framework of the experiments: configs, reduced forms, variants, and the gallery page."""

import json
import math
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from nl_nodes import UserError
from nl_training.config.cli import CONF, _compose, check
from nl_training.config.experiments import STUDIES
from nl_training.config.resolve import resolve
from nl_training.config.schema import Config
from nl_training.config.variants import variant
from nl_training.data import load
from nl_training.experiments import gallery
from nl_training.experiments.runner import metric_name, study
from nl_training.experiments.train import subset

NAMES = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))


@cache  # composing takes a tenth of a second
def config(name: str, reduced: bool) -> Config:
    return check([f"experiment={name}", f"reduced={str(reduced).lower()}"], multirun=False)


@pytest.mark.parametrize("name", NAMES)
def test_experiment_has_a_description_in_full_and_reduced_form(name: str) -> None:
    for reduced in (False, True):
        experiment = config(name, reduced).experiment
        assert experiment is not None
        assert experiment.name == name
        assert re.match(r"Deep Learning from Scratch, ch0|Node_Layer_Network, |.+ \(20\d\d\), .", experiment.source)
        assert len(experiment.see) > 100


def test_every_experiment_is_run_by_a_test() -> None:
    tests = (Path(__file__).with_name(f"test_{name}.py") for name in ("logged", "with_training", "without_training"))
    quoted = [text for path in tests for text in re.findall(r'"([^"\n]+)"', path.read_text())]
    assert set(NAMES) <= {word for text in quoted for word in re.findall(r"\w+", text)}


def test_every_study_has_its_function_and_every_function_its_experiment() -> None:
    used = {config(name, False).experiment.study for name in NAMES}
    assert used == set(STUDIES)
    for name in used - {"training"}:
        assert callable(study(name))


def test_reduced_merges_the_small_values_over_the_others() -> None:
    whole = check(["experiment=networks"], multirun=False)
    small = check(["experiment=networks", "reduced=true"], multirun=False)
    assert (whole.data.name, whole.trainer.max_steps) == ("mnist", None)
    assert (small.data.name, small.trainer.max_steps) == ("mnist5k", 20)
    assert small.trainer.batch_size == whole.trainer.batch_size
    assert small.experiment.variants["VGG11"] == {"model": "vgg11", "model.width": 4, "trainer.batch_size": 32}


def test_no_experiment_needs_a_download_in_its_reduced_form() -> None:
    for name in NAMES:
        data = config(name, True).data.name
        assert data in ("mnist5k", "digits"), name


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["experiment=apple"], "did you mean apples?"),
        (["reduced=true"], "reduced=true goes with an experiment"),
        (["experiment.steps=3"], "add experiment=NAME"),
        (["experiment=descent", "experiment.stepz=3"], "experiment.steps?"),
        (["experiment=descent", "experiment.steps=0"], "experiment.steps=0 must be a whole number"),
        (["experiment=descent", "reduced=maybe"], "reduced=maybe must be true or false"),
        (["experiment=descent", "experiment.study=decent"], "did you mean descent?"),
        (["experiment=optimizer_paths", "experiment.learning_rates={LBFGS: 1}"], "takes no new keys"),
        (["experiment=weight_init", "experiment.variants=3"], "experiment.variants=3 must be a group of keys"),
    ],
)
def test_invalid_experiment_keys_are_refused(overrides: list[str], says: str) -> None:
    with pytest.raises(UserError) as error:
        check(overrides, multirun=False)
    assert says in str(error.value)


def test_sweep_over_experiments_refuses_experiment_keys() -> None:
    assert check(["experiment=descent", "experiment.steps=10,20"], multirun=True).experiment.steps == 10
    with pytest.raises(UserError, match="run that experiment alone"):
        check(["experiment=descent,optimizer_paths", "experiment.steps=10"], multirun=True)


def test_misspelt_key_in_small_values_is_refused() -> None:
    cfg = _compose(["experiment=descent", "reduced=true"])
    OmegaConf.set_struct(cfg, False)
    cfg.experiment.small = {"trainer": {"epoch": 1}}
    with pytest.raises(UserError, match="epoch"):
        resolve(cfg)


def test_variant_applies_options_and_keys_to_a_copy_of_the_config() -> None:
    cfg = _compose(["optimizer=momentum"])
    config, made = variant(cfg, {"model": "vgg11", "model.width": 16, "optimizer": "sgd", "optimizer.lr": 0.5})
    assert (config.model.name, config.model.width, config.optimizer.lr) == ("vgg11", 16, 0.5)
    assert "momentum" not in made.optimizer
    assert (cfg.model.name, cfg.optimizer.momentum) == ("cnn3", 0.9)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": "vgg61"}, "did you mean vgg16?"),
        ({"optimizer.lrr": 1}, "did you mean optimizer.lr?"),
        ({"optimizer.lr": -1}, "optimizer.lr=-1 must be a number above 0"),
        (3, "must be a group of keys"),
    ],
)
def test_invalid_variant_is_refused(changes: object, says: str) -> None:
    with pytest.raises(UserError) as error:
        variant(_compose([]), changes)
    assert says in str(error.value)


def test_image_subsets_are_balanced_over_classes() -> None:
    data = load("mnist5k", validation=0.0)
    less = subset(data, 300)
    assert len(less.train) == 300
    assert np.bincount(less.train.t).tolist() == [30] * 10
    assert subset(data, 10**6) is data
    assert less.test is data.test


def test_metric_names_are_valid_in_mlflow() -> None:
    assert metric_name("He, λ=0.1: test accuracy") == "He_ __0.1: test accuracy"


def test_gallery_page_matches_the_experiment_configs() -> None:
    entries, results = gallery.experiments(), json.loads(gallery.NUMBERS.read_text())
    assert sorted(entries) == NAMES
    assert gallery.PAGE.read_text() == gallery.page(entries, results)
    assert results.keys() == entries.keys()


def test_gallery_figures_exist_and_are_small() -> None:
    results = json.loads(gallery.NUMBERS.read_text())
    shown = {figure for result in results.values() for figure in result["figures"]}
    assert shown == {path.name for path in gallery.FOLDER.glob("*.png")}
    assert all(result["figures"] == sorted(result["figures"]) for result in results.values())  # as their names count
    for figure in shown:
        assert 1000 < (gallery.FOLDER / figure).stat().st_size <= gallery.MAX_BYTES, figure
    assert all(math.isfinite(value) for result in results.values() for value in result["numbers"].values())


@pytest.mark.parametrize("name", NAMES)
def test_every_variant_of_an_experiment_sets_something(name: str) -> None:
    """Else an override of the command line could make the variants equal, under their two names."""
    variants = OmegaConf.load(CONF / "experiment" / f"{name}.yaml").experiment.get("variants") or {}
    assert all(variants.values())
