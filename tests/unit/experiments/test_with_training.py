"""Reduced experiments with training reproduce the effect that their sources show."""

import math

import pytest
from support.assertions import refused
from support.experiments import small, trained

from nl_nodes import UserError


def of(name: str, what: str) -> dict[str, float]:
    """Return the numbers whose names end with a suffix, by the rest of the name."""
    end = f": {what}"
    return {key.removesuffix(end): value for key, value in small(name).numbers.items() if key.endswith(end)}


def test_batch_prediction_equals_single_predictions() -> None:
    numbers = small("three_layer").numbers
    assert numbers["images that single and batch put in other classes"] == 0
    assert numbers["largest difference of a logit"] < 1e-4
    assert numbers["test accuracy"] > 0.4
    assert numbers["microseconds an image, in batches"] < numbers["microseconds an image, alone"]


def test_sgd_is_slower_than_every_other_optimizer() -> None:
    loss = of("optimizer_comparison", "last losses")
    assert len(loss) == 10
    assert loss["SGD"] == max(loss.values())
    slow = {"SGD", "Lion", "LAMB"}  # 100 steps are few for the default rates of Lion and LAMB
    assert loss["SGD"] > 2 * max(value for name, value in loss.items() if name not in slow)


def test_small_initial_weights_do_not_learn_and_he_is_fastest() -> None:
    loss = of("weight_init", "last losses")
    assert loss["std 0.01"] == pytest.approx(math.log(10), abs=0.01)
    assert loss["He"] < loss["Xavier"] - 0.5 < loss["std 0.01"] - 0.5


def test_network_memorizes_three_hundred_images() -> None:
    numbers = small("overfit").numbers
    assert numbers["no regularization: train accuracy"] == 1
    assert numbers["no regularization: gap"] > 0.1


@pytest.mark.parametrize(
    ("name", "without", "held"),
    [
        ("overfit_weight_decay", "no weight decay", "weight decay 0.1"),
        ("overfit_dropout", "no dropout", "dropout 0.2"),
        ("overfit_dropout", "no dropout", "dropout 0.2, ancestral scaling"),
    ],
)
def test_regularization_narrows_the_gap(name: str, without: str, held: str) -> None:
    gaps, accuracy = of(name, "gap"), of(name, "train accuracy")
    assert gaps[held] < gaps[without] - 0.02
    assert 0.3 < accuracy[held] < accuracy[without]


def test_unknown_ancestral_variant_is_refused() -> None:
    with pytest.raises(UserError, match=r"experiment.ancestral=dropout 0.3 is not a variant"):
        small("overfit_dropout", "experiment.ancestral='dropout 0.3'")


def test_exact_gradient_vanishes_where_the_textbooks_does_not() -> None:
    numbers = small("batch_norm").numbers
    assert numbers["std 1: share below 1e-7 without"] > 0.7
    assert numbers["std 1: exact over textbook without"] < 0.01
    assert numbers["std 1: exact over textbook with"] > 0.5
    for norm in ("with", "without"):
        assert numbers[f"std 0.0858: exact over textbook {norm}"] == pytest.approx(1, abs=1e-3)


def test_batch_norm_learns_at_scales_where_plain_networks_do_not() -> None:
    numbers = small("batch_norm").numbers
    for gradient in ("stable", "exact", "textbook"):
        with_norm, without = (numbers[f"std 0.0858: accuracy {norm}, {gradient}"] for norm in ("with", "without"))
        assert with_norm > without + 0.2, gradient


def test_batch_norm_learns_faster_at_every_position() -> None:
    loss = of("batch_norm_position", "last losses")
    assert len(loss) == 4
    assert max(value for name, value in loss.items() if name != "none") < loss["none"] - 0.1


def test_best_draw_is_far_better_than_the_median() -> None:
    found = small("hyperparameter_search")
    assert len(found.trained) == 6
    numbers = found.numbers
    assert numbers["best validation accuracy"] > numbers["median validation accuracy"] + 0.2
    assert 1e-5 <= numbers["best lr"] <= 0.1
    assert 1e-8 <= numbers["best weight decay"] <= 1e-4
    assert numbers["its test accuracy"] > 0.5


def test_training_makes_filters_smoother() -> None:
    numbers = small("filters").numbers
    assert numbers["roughness before"] == pytest.approx(2, abs=0.5)
    assert numbers["roughness after"] < 0.8 * numbers["roughness before"]


def test_float16_predicts_and_float32_trains_like_float64() -> None:
    numbers = small("half_float").numbers
    assert numbers["run in float32: classes that differ"] == 0
    assert numbers["run in float16: classes that differ"] <= 2
    assert numbers["run in float64: accuracy"] > 0.3
    both = [numbers[f"trained in {dtype}: test accuracy"] for dtype in ("float32", "float64")]
    assert both[0] == pytest.approx(both[1], abs=0.02)


def test_sharpness_rises_to_two_over_the_learning_rate() -> None:
    rates = {name.partition(":")[0] for name in small("edge_of_stability").numbers}
    assert rates == {"lr 0.4", "lr 0.6"}
    for rate in rates:
        limit, first, last, rises, loss, end = (v for k, v in small("edge_of_stability").numbers.items() if rate in k)
        assert first < 0.75 * limit
        assert last == pytest.approx(limit, rel=0.25)
        assert rises > 20
        assert end < loss / 5


def test_descent_that_diverges_is_refused_with_its_rate() -> None:
    with pytest.raises(UserError, match=r"experiment\.rates: the loss is (inf|nan) after \d+ steps of 1e\+200"):
        small("edge_of_stability", "experiment.small.experiment.rates=[1e200]", "verify=off")


@pytest.mark.parametrize("name", ["lr_range", "edge_of_stability", "sharpness_of_optimizers"])
@pytest.mark.parametrize(
    "option",
    [
        "regularization.weight_decay=0.1", "regularization.augment=shift", "regularization.mixup=0.2",
        "regularization.clip_norm=1", "regularization.ema=0.9", "trainer.accumulate=2",
    ],
)  # fmt: skip
def test_options_of_the_trainer_are_refused_by_studies_that_take_steps(name: str, option: str) -> None:
    with pytest.raises(UserError, match=rf"^{option.partition('=')[0]} is of trainings by a trainer"):
        small(name, option, "optimizer=sgd", "verify=off")


def test_label_smoothing_is_refused_where_the_loss_is_the_studys_own() -> None:
    with pytest.raises(UserError, match=r"^regularization\.label_smoothing is of"):
        small("edge_of_stability", "regularization.label_smoothing=0.1", "verify=off")


def test_edge_of_stability_is_refused_for_other_optimizers() -> None:
    with pytest.raises(UserError, match="leave optimizer out, or give sgd"):
        small("edge_of_stability", "optimizer=momentum", "verify=off")


def test_without_shortcuts_the_loss_rises_sooner_and_is_not_convex() -> None:
    low = of("loss_surface", "share of points with a loss below 1")
    bent = of("loss_surface", "share of points that are not convex")
    assert low["with shortcuts"] > 2 * low["without shortcuts"]
    assert bent["with shortcuts"] + 0.1 < bent["without shortcuts"]


def test_training_leaves_about_as_many_outliers_as_classes() -> None:
    numbers = small("spectrum").numbers
    assert numbers["before training: eigenvalues above the widest gap"] < 5
    assert 8 <= numbers["after training: eigenvalues above the widest gap"] <= 10
    assert numbers["after training: share below a tenth of it"] > 0.9


def test_large_steps_on_small_batches_arrive_where_the_loss_is_flat() -> None:
    for what in ("largest eigenvalue", "trace"):
        values = of("sharpness_of_optimizers", what)
        flattest = values.pop("SGD 0.2, batches of 5")
        assert len(values) == 6
        assert flattest < min(values.values()) / 2
        assert values["SGD 0.2"] < values["SGD 0.02"]


def test_training_that_does_not_reach_the_loss_is_refused() -> None:
    with pytest.raises(UserError, match=r"after experiment\.steps=20, above experiment\.loss=0\.05"):
        small("sharpness_of_optimizers", "experiment.steps=20")


def test_range_test_brackets_the_best_constant_learning_rate() -> None:
    numbers = small("lr_range").numbers
    for name in ("without batch norm", "with batch norm"):
        best = numbers[f"{name}: best constant rate"]
        assert numbers[f"{name}: steepest descent"] < best < numbers[f"{name}: divergence"]
        assert numbers[f"{name}: last losses at 10"] > 5 * numbers[f"{name}: last losses at {best:g}"]
    assert numbers["with batch norm: divergence"] > 3 * numbers["without batch norm: divergence"]


def test_race_trains_all_networks() -> None:
    assert of("networks", "test accuracy").keys() == {"MLP", "CNN3", "CNN8", "VGG11", "VGG16"}
    steps = of("networks", "steps to target")
    assert "MLP" in steps
    assert set(steps.values()) == {20.0}


def test_every_training_has_its_certificate() -> None:
    for training in small("weight_init").trained:
        assert training.outcome.status == "verified"


@pytest.mark.parametrize("name", ["deep_convnet", "race", "simple_convnet", "two_layer_sigmoid"])
def test_strict_verification_accepts_an_ordinary_training(name: str) -> None:
    trained(name)


def test_a_study_that_cannot_have_its_results_says_so_before_it_trains() -> None:
    with refused("first convolution"):
        small("filters", "model=mlp")
    with refused("validation accuracies"):
        small("hyperparameter_search", "data.validation=0")


def test_filters_are_shown_without_biases_too() -> None:
    assert small("filters", "regularization=batch_norm").numbers["test accuracy"] > 0.2
