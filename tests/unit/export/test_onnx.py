"""Exported networks give the same results in onnxruntime: every model in every form, on real and random images."""

import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnxruntime import InferenceSession, SessionOptions
from support.assertions import refused
from support.small_models import WIDTHS, fits

from nl_layers import Affine, Convolution, Dropout, Layer, Mode, Pooling
from nl_models import Network, build
from nl_models.network import EVAL_BATCH
from nl_models.onnx import save_onnx, to_onnx
from nl_nodes import Device, MulConst, Node
from nl_training.data import Normalization, load

FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "before activation": {"batch_norm": "before_activation"},
    "before affine": {"batch_norm": "before_affine"},
    "after activation": {"batch_norm": "after_activation"},
    "dropout": {"dropout": 0.5},
    "sigmoid": {"activation": "sigmoid"},
    "tanh, batch norm, dropout": {"activation": "tanh", "batch_norm": "before_activation", "dropout": 0.3},
}


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Return 250 real test images and 50 random ones: more than one batch of an evaluation."""
    real = load("mnist5k").test.x[::4]
    assert len(real) + 50 > EVAL_BATCH
    return np.concatenate([real, np.random.default_rng(3).standard_normal((50, 1, 28, 28), dtype=np.float32)])


def lived_in(net: Network, seed: int = 0) -> Network:
    """Set biases, gammas, betas and running statistics of a network to values like after training."""
    rng = np.random.default_rng(seed)
    gain = (
        4 if net.spec["activation"] == "sigmoid" else 1
    )  # its slope is at most 1/4: deep networks would ignore the image
    state = net.state_dict()
    for name, array in state.items():
        if name.startswith(("gamma", "running_var")):
            array[...] = rng.uniform(0.5, 2, array.shape)
        elif name.startswith("W"):
            array *= gain
        else:
            array[...] = rng.normal(0, 0.3, array.shape)
    net.load_state_dict(state)
    return net


def answers(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    options = SessionOptions()
    options.intra_op_num_threads = 1
    session = InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"x": x})[0]


def check_equal(net: Network, x: np.ndarray) -> np.ndarray:
    expected, found = net.predict(x), answers(to_onnx(net), x)
    assert found.shape == expected.shape == (len(x), net.classes)
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    np.testing.assert_array_equal(found.argmax(axis=1), expected.argmax(axis=1))
    return expected


@pytest.mark.parametrize(
    ("name", "form"), [(n, form) for n, form in product(WIDTHS, FORMS) if fits(n, FORMS[form])], ids=lambda value: value
)
def test_every_exported_model_gives_the_same_logits(name: str, form: str, images: np.ndarray) -> None:
    net = lived_in(build(name, width=WIDTHS[name], input_shape=(1, 28, 28), seed=1, **FORMS[form]))
    expected = check_equal(net, images)
    assert np.ptp(expected, axis=0).max() > 1e-3 * np.abs(expected).max()  # the images differ


@pytest.mark.parametrize("count", [1, 7])
def test_exported_model_accepts_any_batch_size(count: int, images: np.ndarray) -> None:
    check_equal(lived_in(build("cnn3", width=8)), images[:count])


def test_colour_images_and_float64_networks(images: np.ndarray) -> None:
    net = lived_in(build("cnn8", width=8, input_shape=(3, 32, 32), classes=7, device=Device(dtype="float64")))
    check_equal(net, np.random.default_rng(0).standard_normal((20, 3, 32, 32), dtype=np.float32))


def test_exported_overlapping_and_padded_pooling() -> None:
    rng = np.random.default_rng(5)
    convolution = Convolution(rng.standard_normal((4, 2, 3, 2)), None, stride=2, pad=1)
    pooling, affine = Pooling(3, 3, stride=2, pad=1), Affine(rng.standard_normal((4 * 3 * 3, 5)), rng.random(5))
    spec = {"name": "odd", "input_shape": [2, 10, 10], "classes": 5}
    net = Network([(convolution, 1), (pooling, 1), (affine, 2)], spec, Device("cpu"))
    check_equal(net, rng.standard_normal((6, 2, 10, 10), dtype=np.float32) - 5)


def test_exported_graph_has_the_networks_layers_and_names() -> None:
    net = build("cnn3", width=8, batch_norm="before_activation", dropout=0.5)
    model = to_onnx(net, {"classes": '["a"]'})
    kinds = [node.op_type for node in model.graph.node]
    assert kinds == ["Conv", "BatchNormalization", "Relu", "MaxPool", "Flatten", "Gemm", "Relu", "Gemm"]
    assert {tensor.name for tensor in model.graph.initializer} == net.state_dict().keys()
    assert {entry.key: entry.value for entry in model.metadata_props} == {"classes": '["a"]'}


def test_normalization_is_part_of_the_exported_model() -> None:
    net = lived_in(build("cnn3", width=8, input_shape=(3, 12, 12)))
    x = np.random.default_rng(0).integers(0, 256, (6, 3, 12, 12), dtype=np.uint8)
    scaling = Normalization((100.0, 120.5, 90.25), (50.0, 60.5, 70.0))
    expected = net.predict(scaling.apply(x))
    found = answers(to_onnx(net, scaling=(scaling.mean, scaling.std)), x.astype(np.float32))
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_exported_file_has_the_model(tmp_path: Path) -> None:
    net = build("mlp", hidden=(5,), input_shape=(1, 2, 2), classes=3)
    save_onnx(net, tmp_path / "net.onnx")
    assert onnx.load(str(tmp_path / "net.onnx")) == to_onnx(net)
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]


def test_export_to_a_missing_folder_is_refused() -> None:
    with refused("nowhere"):
        save_onnx(build("mlp", hidden=(5,)), "nowhere/net.onnx")


class Double(Layer, abstract=True):
    """A layer without an ONNX translation."""

    def wire(self, *inputs: Node, mode: Mode) -> Node:
        return MulConst(inputs[0], 2)


@pytest.mark.parametrize(("layer", "word"), [(Double(), "Double"), (Dropout(inverted=False), "inverted")])
def test_layer_without_an_onnx_translation_is_refused(layer: Layer, word: str) -> None:
    spec = {"name": "odd", "input_shape": [1, 2, 2], "classes": 4}
    net = Network([(Affine(np.eye(4)), 1), (layer, 1)], spec, Device("cpu"))
    with refused(word, "ONNX"):
        to_onnx(net)


def test_missing_onnx_is_reported_with_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with refused("pip install", "onnx"):
        to_onnx(build("mlp", hidden=(5,)))
