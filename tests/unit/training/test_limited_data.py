"""data.limit and the presets of debug: a part of the data, the same for every seed, and runs of seconds."""

from pathlib import Path

import numpy as np
import pytest
from support.assertions import refused

from nl_training.commands import train
from nl_training.config.cli import check, composed
from nl_training.data import Source, Split, load
from nl_training.data.splits import limited


def test_a_limit_takes_a_share_of_every_class_whatever_the_seed() -> None:
    whole, part, other = load("digits"), load("digits", limit=360), load("digits", limit=360, seed=1)
    share = 360 / (len(whole.train) + len(whole.validation))
    assert len(part.train) + len(part.validation) == 360
    assert len(part.test) == round(share * len(whole.test))
    counts, all_counts = np.bincount(part.test.t), np.bincount(whole.test.t)
    assert np.abs(counts - share * all_counts).max() < 1
    np.testing.assert_array_equal(part.test.t, other.test.t)
    assert part.digest == other.digest != whole.digest
    assert load("digits", limit=10**6).digest == whole.digest


@pytest.mark.parametrize("limit", range(6, 60, 7))
def test_no_more_images_are_taken_with_a_validation_split_of_the_datas_own(limit: int) -> None:
    split = Split(np.zeros((51, 1, 2, 2)), np.arange(51) % 3)
    part = limited(Source(split, split, ("a", "b", "c"), validation=split), limit)
    assert len(part.train) + len(part.validation) == limit


def test_a_limit_of_one_leaves_nothing_to_validate() -> None:
    with refused("data.validation=0.1 takes none of 1 training images", "data.validation=0"):
        load("digits", limit=1)
    assert len(load("digits", limit=1, validation=0.0).test) == 1


@pytest.mark.parametrize(("preset", "steps"), [("one_batch", 1), ("overfit", 200), ("few", 16)])
def test_a_debug_preset_trains_and_logs_nothing(
    preset: str, steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NL_OUTPUT", str(tmp_path))
    overrides = [f"debug={preset}", "model=mlp", "data=digits", "verify=off", "device.threads=1"]
    result = train.train(*composed(overrides))
    assert result.steps == steps
    if preset == "overfit":
        assert result.history[-1].metrics["train/epoch_acc"] > 0.99
    assert list(tmp_path.iterdir()) == []


def test_a_debug_preset_goes_with_an_experiment_and_may_be_logged() -> None:
    config = check(["debug=few", "experiment=race", "tracking=mlflow"], multirun=False)
    assert (config.data.name, config.trainer.batch_size, config.trainer.epochs) == ("mnist", 128, 2)
    assert config.tracking.enabled
    with refused("debug=fw is unknown", "few"):
        check(["debug=fw"], multirun=False)
