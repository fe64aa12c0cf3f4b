"""Experiments without training reproduce the effect that their sources show."""

import pytest
from support.experiments import small

from nl_nodes import UserError
from nl_training.experiments.result import LINES, PALETTE
from nl_training.experiments.studies.optimizer_paths import optimizer


def test_apple_prices_match_the_textbook() -> None:
    numbers = small("apples").numbers
    assert numbers["apples alone: price"] == pytest.approx(220)
    alone = [numbers[f"apples alone: d price / d {name}"] for name in ("apples", "apple price", "tax")]
    assert alone == pytest.approx([110, 2.2, 200])
    both = [numbers[f"with oranges: d price / d {n}"] for n in ("apples", "apple price", "oranges", "orange price")]
    assert both == pytest.approx([110, 2.2, 165, 3.3])
    assert [numbers["with oranges: price"], numbers["with oranges: d price / d tax"]] == pytest.approx([715, 650])


def test_the_drawing_of_apples_has_a_derivative_at_every_node() -> None:
    left, right = small("apples").figures["apples"].axes
    red = [sorted(text.get_text() for text in axis.texts if text.get_color() == PALETTE[3]) for axis in (left, right)]
    assert red[0] == ["1", "1.1", "110", "2.2", "200"]
    assert red[1] == ["1", "1.1", "1.1", "1.1", "110", "165", "2.2", "3.3", "650"]


def test_lines_of_a_panel_differ_without_colour() -> None:
    for option in ("linestyle", "marker"):
        assert len({look[option] for look in LINES}) == len(LINES) == len(PALETTE)


def test_gradient_descent_contracts_by_four_fifths() -> None:
    numbers = small("descent").numbers
    assert [numbers["slope at 5"], numbers["slope at 10"]] == pytest.approx([0.2, 0.3])
    assert [numbers["x at the end"], numbers["y at the end"]] == pytest.approx([-3 * 0.8**20, 4 * 0.8**20])


def test_sigmoid_slope_is_at_most_one_quarter() -> None:
    numbers = small("activation_functions").numbers
    assert numbers["sigmoid steepest slope"] == pytest.approx(0.25)
    assert numbers["tanh steepest slope"] == numbers["ReLU steepest slope"] == 1
    assert numbers["sigmoid at 0"] == 0.5


def test_every_optimizer_reduces_the_valley_function() -> None:
    numbers = small("optimizer_paths").numbers
    heights = {name.partition(":")[0]: value for name, value in numbers.items()}
    assert heights.keys() == {"SGD", "Momentum", "Nesterov", "AdaGrad", "RMSprop", "Adam", "AdamW"}
    assert max(heights.values()) < 0.2  # from 6.45
    # SGD in closed form: each coordinate shrinks by its own factor.
    assert heights["SGD"] == pytest.approx((7 * 0.905**30) ** 2 / 20 + (2 * 0.9**30) ** 2)
    assert heights["AdaGrad"] < heights["SGD"]
    assert heights["Nesterov"] < heights["Momentum"]


def test_unknown_optimizer_is_refused() -> None:
    with pytest.raises(UserError, match=r"Adma is not an optimizer: did you mean Adam\?"):
        optimizer("Adma", 0.1)
    with pytest.raises(UserError, match="Adam=0 must be a number above 0"):
        small("optimizer_paths", "experiment.learning_rates.Adam=0")


def test_initial_weights_determine_the_spread_of_activations() -> None:
    last = {
        name.removesuffix(": std of the last layer"): v for name, v in small("activation_histograms").numbers.items()
    }
    assert last["sigmoid, std 1"] > 0.4  # nearly all at 0 or 1, where the std is 0.5
    assert last["sigmoid, std 0.01"] < 0.02  # all at one half
    assert last["tanh, std 0.01"] < 1e-4
    assert last["relu, std 0.01"] < 1e-5
    assert last["relu, he"] > 3 * last["relu, xavier"]
    assert last["relu, std 1"] > 1000


def test_nodes_and_closed_forms_differ_only_by_rounding() -> None:
    numbers = small("rounding").numbers
    assert max(numbers.values()) <= 8
    assert sum(value > 0 for value in numbers.values()) >= 4  # they do differ
    assert numbers["ReLU: ulp forward"] == numbers["ReLU: ulp backward"] == 0


@pytest.mark.parametrize(("name", "tensors"), [("gradient_check", 4), ("batch_norm_gradient", 8)])
def test_every_gradient_agrees_with_the_complex_step_and_none_is_zero(name: str, tensors: int) -> None:
    numbers = small(name).numbers
    assert numbers["tensors"] == tensors
    assert numbers["worst residual, complex step"] < 1e-12
    assert numbers["worst residual, complex step"] < numbers["worst residual, central differences"] < 1e-6
    assert numbers["smallest gradient size"] > 1e-4
