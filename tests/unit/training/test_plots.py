"""The plots of a run and of a sweep show the given values."""

import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from nl_training.tracking.sweep_plots import Child, comparison
from nl_training.training.callbacks import EpochReport
from nl_training.viz import plots

CLASSES = ("cat", "dog", "owl")


def drawn(figure: Figure) -> np.ndarray:
    """Draw the figure, so that errors in drawing appear here, and return the pixels."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    file.seek(0)
    pixels = imread(file)
    assert pixels.std() > 0
    return pixels


def epoch(number: int, validation: bool = True) -> EpochReport:
    metrics = {"test/loss": 1 / number, "test/acc": 1 - 0.5 / number}
    if validation:
        metrics |= {"val/loss": 2 / number, "val/acc": 1 - 0.7 / number}
    return EpochReport(number, number * 10, metrics, True, 0.0)


def lines(axis) -> dict[str, tuple[list, list]]:
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axis.get_lines()}


def test_learning_curves_show_batches_validation_and_test() -> None:
    steps = [(n, 3.0 / n, n / 30) for n in range(1, 31)]
    figure = plots.learning_curves(steps, [epoch(n) for n in (1, 2, 3)], "mlp adam")
    loss, accuracy = figure.axes
    assert lines(loss)["validation"] == ([10, 20, 30], [2, 1, 2 / 3])
    assert lines(loss)["test"] == ([10, 20, 30], [1, 1 / 2, 1 / 3])
    assert lines(accuracy)["validation"] == ([10, 20, 30], [1 - 0.7 / n for n in (1, 2, 3)])
    assert lines(accuracy)["training batches"][0] == list(range(1, 31))
    assert lines(accuracy)["training batches"][1] == plots.smooth([n / 30 for n in range(1, 31)])
    assert figure.get_suptitle() == "mlp adam"
    drawn(figure)


def test_learning_curves_need_no_validation_and_no_steps() -> None:
    figure = plots.learning_curves([], [epoch(1, validation=False)], "resumed")
    assert set(lines(figure.axes[0])) == {"test"}
    drawn(figure)


def test_learning_curves_draw_zero_and_missing_losses() -> None:
    drawn(plots.learning_curves([(1, 0.0, 1.0), (2, float("nan"), 0.0)], [epoch(1)], "at the edge"))


@pytest.mark.parametrize("span", [1, 3, 25])
def test_smoothing_is_a_centred_moving_average(span: int) -> None:
    values = list(np.random.default_rng(3).normal(size=40))
    means = [np.mean(values[max(0, i - span // 2) : i + span // 2 + 1]) for i in range(40)]
    np.testing.assert_allclose(plots.smooth(values, span), means, rtol=1e-9)


def test_smoothing_does_not_shift_a_curve() -> None:
    line = list(np.arange(400.0))
    np.testing.assert_allclose(plots.smooth(line)[50:-50], line[50:-50])


@pytest.mark.parametrize("count", [2, 25, 26, 200])
def test_confusion_matrix_of_many_classes_has_limited_size(count: int) -> None:
    figure = plots.confusion_matrix(np.arange(count), np.arange(count), [f"class {i}" for i in range(count)])
    assert max(figure.get_size_inches()) <= 14
    drawn(figure)


def test_the_confusion_matrix_counts_labels_by_row() -> None:
    figure = plots.confusion_matrix([0, 0, 1, 2, 2, 2], [0, 1, 1, 2, 0, 2], CLASSES)
    (axis,) = figure.axes
    # A text is at (column, row): (predicted, label).
    shown = {text.get_position(): text.get_text() for text in axis.texts}
    assert shown == {(0, 0): "1", (1, 0): "1", (1, 1): "1", (0, 2): "1", (2, 2): "2"}
    np.testing.assert_allclose(axis.images[0].get_array(), [[0.5, 0.5, 0], [0, 1, 0], [1 / 3, 0, 2 / 3]])
    assert [label.get_text() for label in axis.get_yticklabels()] == list(CLASSES)
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("predicted", "label")
    assert "0.6667" in axis.get_title()
    drawn(figure)


def test_class_without_images_gives_an_empty_row() -> None:
    figure = plots.confusion_matrix([0, 0], [0, 2], CLASSES)
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array()[1:], 0)
    drawn(figure)


def test_worst_mistakes_are_sorted_by_confidence() -> None:
    x = np.random.default_rng(5).normal(size=(5, 1, 4, 4))
    p = np.array([[0.9, 0.1, 0], [0.6, 0.4, 0], [0.05, 0.05, 0.9], [0.3, 0.4, 0.3], [0.01, 0.98, 0.01]])
    t = np.array([0, 1, 0, 2, 1])  # images 1, 2 and 3 are misclassified, with 0.6, 0.9 and 0.4 for the wrong class
    figure = plots.worst_mistakes(x, t, p, CLASSES)
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert titles == ["cat taken for owl (90%)", "dog taken for cat (60%)", "owl taken for dog (40%)"]
    for axis, n in zip(figure.axes, (2, 1, 3), strict=False):
        shown, image = axis.images[0].get_array(), x[n, 0]
        np.testing.assert_allclose(shown, (image - image.min()) / (image.max() - image.min()))
    assert figure.get_suptitle().startswith("3 mistakes on 5 ")
    drawn(figure)
    assert plots.confident_mistakes(t, p, count=1) == [2]


def test_worst_mistakes_without_mistakes_and_with_a_constant_image() -> None:
    drawn(plots.worst_mistakes(np.zeros((2, 1, 4, 4)), np.array([0, 1]), np.eye(3)[:2], CLASSES))
    drawn(plots.worst_mistakes(np.zeros((2, 1, 4, 4)), np.array([1, 0]), np.eye(3)[:2], CLASSES))


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_pictures_of_several_channels_are_drawn(channels: int) -> None:
    x = np.random.default_rng(7).normal(size=(1, channels, 6, 5))
    figure = plots.worst_mistakes(x, np.array([1]), np.eye(3)[:1], CLASSES)
    assert figure.axes[0].images[0].get_array().shape == ((6, 5) if channels == 2 else (6, 5, 3))
    drawn(figure)


def test_comparison_is_sorted_by_accuracy_and_shows_failed_runs() -> None:
    children = [
        Child("0: sgd", "FINISHED", 0.5, ((10, 0.4), (20, 0.5))),
        Child("1: nan", "FAILED", None),
        Child("2: adam", "FINISHED", 0.75, ((10, 0.75),)),
    ]
    figure = comparison(children, "sweep lr")
    bars, curves = figure.axes
    assert [label.get_text() for label in bars.get_yticklabels()] == ["1: nan", "0: sgd", "2: adam"]
    assert [bar.get_width() for bar in bars.patches] == [0.5, 0.75]
    assert [text.get_text().strip() for text in bars.texts] == ["failed: no result", "0.5000", "0.7500"]
    assert [line.get_xydata().tolist() for line in curves.lines] == [[[10, 0.4], [20, 0.5]], [[10, 0.75]]]
    assert figure.get_suptitle() == "sweep lr"
    drawn(figure)


def test_a_comparison_of_many_runs_is_drawn() -> None:
    drawn(comparison([Child(str(i), "FINISHED", i / 200, ((1, 0.5),)) for i in range(150)], "sweep"))
