"""`Sequential`: a full network of the user's own layers, named, drawn and refused like the built-in ones."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from support.assertions import refused

from nl_layers import Affine, Dropout, Layer, Pooling, Relu, Residual, SigmoidWithLoss
from nl_layers.optimizers import SGD, Adam
from nl_models import MODELS, BatchNormSpec, ConvSpec, DenseSpec, Sequential, build, cnn3, mlp
from nl_nodes import Device, Parameter, ShapeError, Sigmoid, UserError

RNG = np.random.default_rng(0)
X, T = RNG.standard_normal((6, 1, 8, 8)), np.array([0, 2, 1, 1, 0, 2])
DOUBLE = Device(dtype="float64", threads=1)


class Swish(Layer, abstract=True):
    """A user's layer."""

    def wire(self, *inputs, mode):
        return inputs[0] * Sigmoid(inputs[0])


def own(**options) -> Sequential:
    layers = [
        *[ConvSpec(4, pad=2, stride=2), BatchNormSpec(), Swish(), Pooling(2, 2)],
        *[DenseSpec(7), Relu(), Dropout(0.5), DenseSpec(3)],
    ]
    return Sequential(layers, (1, 8, 8), **options)


def test_it_is_a_full_network(tmp_path: Path) -> None:
    net, reference = own(device=DOUBLE), own(device=Device(dtype="float64", compile=False))
    assert list(net.params) == ["W1", "b1", "gamma1", "beta1", "W2", "b2", "W3", "b3"]
    step, expected = net.step(X, T), reference.step(X, T)
    for name, gradient in expected.grads.items():
        np.testing.assert_allclose(step.grads[name], gradient, rtol=1e-9, atol=1e-14, err_msg=name)
    net.save(tmp_path / "weights")
    other = own(seed=1, device=DOUBLE)
    assert np.abs(other(X) - net(X)).max() > 0
    other.load(tmp_path / "weights")
    np.testing.assert_array_equal(other(X), net.predict(X))


def test_the_builders_networks_are_sequences_of_the_same_layers() -> None:
    layers = [ConvSpec(8, 5, 0), Relu(), Pooling(2, 2), DenseSpec(100), Relu(), DenseSpec(10)]
    net, expected = Sequential(layers, (1, 28, 28), seed=3), cnn3(width=16, seed=3)
    assert net.params.keys() == expected.params.keys()
    for name, value in expected.params.items():
        np.testing.assert_array_equal(net.params[name], value, err_msg=name)


@pytest.mark.parametrize(
    ("layers", "names"),
    [
        (
            [BatchNormSpec(), DenseSpec(2), Relu(), BatchNormSpec(), DenseSpec(3)],
            "gamma1 beta1 W1 b1 gamma2 beta2 W2 b2",
        ),
        ([DenseSpec(2, bias=False), Relu(), BatchNormSpec(), DenseSpec(3)], "W1 gamma1 beta1 W2 b2"),
        ([Affine(np.ones((4, 2)), np.ones(2)), DenseSpec(3)], "W1 b1 W2 b2"),
    ],
)
def test_parameters_share_the_number_of_their_neighbours(layers: list, names: str) -> None:
    assert " ".join(Sequential(layers, (4,)).params) == names


def test_the_dropouts_of_a_network_differ_and_depend_on_its_seed() -> None:
    def masks(seed: int) -> list[np.ndarray]:
        net = Sequential([DenseSpec(40), Dropout(0.5), Relu(), Dropout(0.5), DenseSpec(2)], (3,), seed=seed)
        return [layer.forward(np.ones((1, 400))) for layer in net.layers if isinstance(layer, Dropout)]

    first, second = masks(0)
    assert (first != second).any()
    assert (first != masks(1)[0]).any()
    np.testing.assert_array_equal(masks(0), [first, second])


@pytest.mark.parametrize("inside", [False, True])
def test_dropouts_with_the_same_masks_are_refused(inside: bool) -> None:
    dropout = Dropout(0.5)
    Sequential([dropout, DenseSpec(2)], (9,), seed=4)
    first, second = deepcopy(dropout), deepcopy(dropout)
    with refused("layer 3", "Dropout(ratio=0.5", "the same masks", "seed=4, stream=1"):
        Sequential([first, Relu(), Residual(second) if inside else second], (9,))
    second.stream = 7
    Sequential([first, Relu(), second], (9,))


def test_one_logit_needs_another_loss_than_that_of_softmax() -> None:
    for make in (lambda: Sequential([DenseSpec(1)], (4,)), lambda: mlp(classes=1)):
        with refused("softmax of one logit", "SigmoidWithLoss()"):
            make()


def test_a_loss_has_no_parameters() -> None:
    class Scaled(SigmoidWithLoss):
        def __init__(self) -> None:
            super().__init__()
            self.scale = Parameter("scale", np.ones(1))

    with refused("Scaled", "scale", "belongs in a layer"):
        Sequential([DenseSpec(1)], (4,), loss=Scaled())


def test_another_loss() -> None:
    net = Sequential([DenseSpec(1)], (4,), loss=SigmoidWithLoss(), device=DOUBLE)
    x = RNG.standard_normal((5, 4))
    logits, t = net(x).ravel(), np.array([0, 1, 1, 0, 1])
    assert float(net.step(x, t).loss) == pytest.approx(np.mean(np.log1p(np.exp(np.where(t, -logits, logits)))))


def test_a_registered_model_of_own_layers_is_built_again_from_its_spec(monkeypatch: pytest.MonkeyPatch) -> None:
    def tiny(width: int = 3, seed: int = 0, device: Device | None = None) -> Sequential:
        return Sequential([DenseSpec(width), Swish(), DenseSpec(2)], (4,), seed=seed, name="tiny", device=device)

    monkeypatch.setitem(MODELS, "tiny", tiny)
    net = build("tiny", width=5, seed=2)
    again = build(**net.spec)
    np.testing.assert_array_equal(again.params["W1"], net.params["W1"])
    with refused("tiny has no argument 'widht'", "did you mean width?"):
        build("tiny", widht=5)


RELU = Relu()


@pytest.mark.parametrize(
    ("layers", "told"),
    [
        ([RELU, RELU, DenseSpec(2)], ["layer 2 (Relu())", "already"]),
        ([ConvSpec(2), DenseSpec(2)], ["layer 1 (ConvSpec", "(C, H, W)", "(4,)"]),
        ([DenseSpec(3), Affine(np.ones((4, 2)))], ["layer 2 (Affine(weight (4, 2)))", "(1, 3)"]),
        ([np.ones(3)], ["layer 1", "no layer"]),
        ([], ["logits"]),
    ],
)
def test_layers_that_do_not_fit_are_refused(layers: list, told: list[str]) -> None:
    with refused("sequential", *told):
        Sequential(layers, (4,))


def affine() -> Affine:
    return Affine(RNG.standard_normal((4, 3)), np.zeros(3))


@pytest.mark.parametrize("outer", [lambda layer: layer, lambda layer: Residual(layer, affine())])
def test_a_layer_of_another_network_is_refused(outer: Callable[[Layer], Layer]) -> None:
    layer = affine()
    net = Sequential([outer(layer)], (4,))
    with pytest.raises(UserError, match=r"^sequential: layer 2 .*Affine.* is in another network: make a new one"):
        Sequential([Relu(), layer], (4,))
    net.params["W1"][...] = 2
    assert (layer.parameters["weight"].value == 2).all()
    Sequential([Relu(), deepcopy(layer)], (4,)).params["W1"][...] = 3
    assert (net.state_dict()["W1"] == 2).all()


def test_a_layer_of_a_network_that_is_gone_can_be_used_again() -> None:
    layer = affine()
    for _ in range(2):
        net = Sequential([layer], (4,))
        net.itself = net
        del net
    with pytest.raises(ShapeError):
        Sequential([layer, affine()], (4,))  # a network that does not come about takes no layers
    assert Sequential([layer], (4,)).params["W1"].shape == (4, 3)


def test_an_output_that_is_no_row_of_logits_is_refused() -> None:
    with pytest.raises(ShapeError, match="logits"):
        Sequential([ConvSpec(2)], (1, 4, 4))


def test_wrong_arguments_are_refused_with_the_near_name() -> None:
    for make, told in {
        lambda: mlp(hiden=[5]): "mlp has no argument 'hiden': did you mean hidden?",
        lambda: Sequential([DenseSpec(2)], (3,), devise=None): "did you mean device?",
        lambda: DenseSpec(feature=3): "did you mean features?",
        lambda: ConvSpec(0): "filters must be a whole number, 1 or more, got 0",
        lambda: mlp(activation="rellu"): "did you mean relu?",
        lambda: mlp(dropout=1): "dropout must be a number from 0 to below 1, got 1",
        lambda: Device(thread=2): "did you mean threads?",
    }.items():
        with refused(told):
            make()


def test_step_of_an_optimizer_is_update() -> None:
    nets = [own(device=DOUBLE) for _ in range(2)]
    for optimizer in (SGD(0.1), Adam()):
        nets[0].params = nets[1].params
        optimizer.update(nets[0].params, nets[0].step(X, T).grads)
        nets[0].passes = nets[1].passes
        type(optimizer)(optimizer.lr).step(nets[1].params, nets[1].step(X, T).grads)
        nets[0].passes = nets[1].passes
        np.testing.assert_array_equal(nets[0].params.flat, nets[1].params.flat)
