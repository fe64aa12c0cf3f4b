"""`nl_training.fit` trains as the trainer does, and notebooks show drawings."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
from base64 import b64decode
from dataclasses import replace

import numpy as np
import pytest
from support.assertions import refused

from nl_layers import Affine
from nl_layers.optimizers import SGD, Adam
from nl_layers.schedules import Constant
from nl_models import DenseSpec, Sequential, cnn3, mlp
from nl_nodes import Device, Graph, Input
from nl_training import fit
from nl_training.data import Split, load
from nl_training.notebook import graph_html, layer_html, network_html
from nl_training.training.trainer import Trainer, TrainOptions

SMALL = {"input_shape": (1, 8, 8), "hidden": [8], "device": Device(threads=1)}


def test_fit_is_the_trainer_and_leaves_the_best_weights(capsys: pytest.CaptureFixture[str]) -> None:
    data, net, expected = load("digits"), mlp(**SMALL), mlp(**SMALL)
    result = fit(net, data, SGD(0.1), epochs=2, batch_size=100)
    trainer = Trainer(expected, SGD(0.1), Constant(), data, TrainOptions(2, 100))
    assert [r.metrics for r in result.history] == [r.metrics for r in trainer.run().history]
    for name, value in trainer.best_state.items():
        np.testing.assert_array_equal(net.params[name], value)
    assert net.accuracy(data.test.x, data.test.t) == result.test_accuracy
    assert capsys.readouterr().out.count("epoch") == 2


def test_fit_refuses_wrong_arguments() -> None:
    data, net = load("digits"), mlp(**SMALL)
    for options, message in (
        ({"epoch": 1}, "did you mean epochs?"),
        ({"epochs": 0}, "epochs must be a whole number"),
        ({"schedule": "cosine"}, "schedule is no Schedule, such as Cosine(): got 'cosine'"),
        ({"schedule": Constant}, "schedule is no Schedule"),
        ({"callbacks": None}, "callbacks is no Sequence, such as [ProgressBar()]: got None"),
        ({"callbacks": [print]}, "one of callbacks is no Callback, such as ProgressBar()"),
    ):
        with refused("fit", message):
            fit(net, data, **options)  # type: ignore[arg-type]


def test_fit_refuses_data_that_it_cannot_train_on() -> None:
    data, net = load("digits"), mlp(**SMALL)
    empty = Split(data.train.x[:0], data.train.t[:0])
    with refused("no training images"):
        fit(net, replace(data, train=empty), progress=False)
    whole = Split(data.train.x.astype("uint8"), data.train.t)
    with refused("augment", "floating-point", "uint8"):
        fit(net, replace(data, train=whole), augment="auto", progress=False)


def test_fit_trains_on_features() -> None:
    data = load("digits")
    parts = {name: getattr(data, name) for name in ("train", "validation", "test")}
    flat = replace(data, **{name: Split(part.x.reshape(len(part), -1), part.t) for name, part in parts.items()})
    options = {"epochs": 1, "progress": False, "seed": 0}
    results = [
        fit(Sequential([DenseSpec(10)], shape, device=Device(threads=1)), each, **options)
        for shape, each in (((1, 8, 8), data), ((64,), flat))
    ]
    assert results[0].test_loss == results[1].test_loss


def test_fit_leaves_the_frozen_objects_of_a_program_frozen() -> None:
    gc.freeze()
    try:
        count = gc.get_freeze_count()
        fit(mlp(**SMALL), load("digits"), epochs=1, progress=False)
        assert gc.get_freeze_count() > count / 2 > 0  # some may be freed
    finally:
        gc.unfreeze()
    fit(mlp(**SMALL), load("digits"), epochs=1, progress=False)
    assert gc.get_freeze_count() == 0


def drawing(html: str | None) -> str:
    found = re.search('src="data:image/svg\\+xml;base64,([^"]+)"', html or "")
    assert found is not None
    return b64decode(found[1]).decode()


def test_drawings_show_layers_and_shapes() -> None:
    picture = drawing(network_html(cnn3(width=8)))
    for text in ("Convolution 1", "2 × 4 × 24 × 24", "reference: ", "compiled: ", "58,814 parameters"):
        assert text in picture
    assert " a step" not in picture  # nothing was run
    layer = Affine(np.ones((3, 4)))
    assert layer_html(layer) is None
    layer.forward(np.ones((2, 3)))
    assert "Affine(weight (3, 4))" in drawing(layer_html(layer))
    graph = Graph(Input("x") * 2)
    assert graph_html(graph) is None
    graph.forward(x=np.ones((2, 3)))
    assert "2 × 3" in drawing(graph_html(graph))


NOTEBOOK = """
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
import nl_training
from nl_models import Sequential, DenseSpec
data, _ = shell.display_formatter.format(Sequential([DenseSpec(2)], (3,)))
print(data["text/plain"], data["text/html"][:4])
"""


def test_importing_the_package_registers_drawings_with_ipython() -> None:
    done = subprocess.run([sys.executable, "-c", NOTEBOOK], capture_output=True, text=True, timeout=120)
    assert done.stdout.split("\n")[-2:] == ["sequential(input (3,), 2 classes, 8 parameters) <div", ""], done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (lambda net, data: (net, data.train.x), ["data is no Dataset", "load("]),
        (lambda net, data: (net, data, Adam), ["optimizer is no Optimizer", "Adam()"]),
        (lambda net, data: (data, data), ["net is no Network"]),
    ],
)
def test_wrong_arguments_are_refused(arguments, words: list[str]) -> None:
    net, data = mlp(**SMALL), load("digits")
    with refused("fit: ", *words):
        fit(*arguments(net, data))
