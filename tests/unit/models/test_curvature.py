"""Products with the Hessian of a network's loss."""

import numpy as np
import pytest
from support.assertions import refused
from support.small_models import narrow

from nl_models import Curvature, Network, mlp
from nl_nodes import Device, ShapeError, UserError

RNG = np.random.default_rng
SMOOTH = {"activation": "tanh", "init": "xavier"}


def images(net: Network, count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = RNG(2)
    return rng.standard_normal((count, *net.input_shape)), rng.integers(0, net.classes, count)


def vector(net: Network, seed: int) -> dict[str, np.ndarray]:
    rng = RNG(seed)
    return {name: rng.standard_normal(param.shape) for name, param in net.params.items()}


def inner(u: dict, v: dict) -> float:
    return sum(float(np.sum(u[name] * v[name])) for name in u)


@pytest.mark.parametrize("form", [{}, {"batch_norm": True}, {"dropout": 0.3}], ids=["plain", "batch norm", "dropout"])
def test_product_is_the_derivative_of_the_gradient(form: dict) -> None:
    net = narrow("mlp", 1, **SMOOTH, **form)
    x, t = images(net, 8)
    v, start, h = vector(net, 3), net.state_dict(), 1e-6
    sides = []
    for step in (h, -h):
        for name in v:
            net.params[name] = start[name] + step * v[name]
        net.passes = 5
        sides.append(net.step(x, t).grads.flat.copy())
    net.load_state_dict(start)
    net.passes = 5
    central = (sides[0] - sides[1]) / (2 * h)
    product = net.hessian_product(x, t, v).flat
    assert np.abs(product - central).max() <= 1e-7 * np.abs(product).max()


@pytest.mark.parametrize("gauss_newton", [False, True])
@pytest.mark.parametrize("name", ["cnn3", "cnn8"])
def test_matrix_is_symmetric(name: str, gauss_newton: bool) -> None:
    net = narrow(name, 1, batch_norm=True, dropout=0.2)
    matrix = Curvature(net, *images(net, 6), batch_size=4, gauss_newton=gauss_newton)
    u, v = vector(net, 3), vector(net, 4)
    one, two = inner(u, matrix.named_product(v)), inner(v, matrix.named_product(u))
    assert abs(one - two) <= 1e-12 * abs(one)


def test_network_does_not_change() -> None:
    net = narrow("cnn3", 1, batch_norm=True, dropout=0.3)
    x, t = images(net, 6)
    net.step(x, t)
    state, passes = net.state_dict(), net.passes
    net.hessian_product(x, t, vector(net, 3))
    assert net.passes == passes
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, state[name])


def test_float32_network_is_computed_in_double_precision() -> None:
    net = mlp(width=10, classes=4, device=Device(dtype="float32"), **SMOOTH)
    x, t = images(net, 5)
    product = net.hessian_product(x, t, vector(net, 3))
    assert product.flat.dtype == np.float64
    np.testing.assert_array_equal(
        product.flat, net.on(Device(dtype="float64")).hessian_product(x, t, vector(net, 3)).flat
    )


def test_pieces_average_to_the_whole_set() -> None:
    net = narrow("mlp", 1, **SMOOTH)
    x, t = images(net, 10)
    v = vector(net, 3)
    whole, pieces = net.hessian_product(x, t, v).flat, net.hessian_product(x, t, v, batch_size=4).flat
    assert np.abs(pieces - whole).max() <= 1e-13 * np.abs(whole).max()


def test_pieces_have_the_dropout_masks_of_successive_passes() -> None:
    net = narrow("mlp", 1, **SMOOTH, dropout=0.5)
    x, t = images(net, 6)
    v = vector(net, 3)
    whole = net.hessian_product(x, t, v, batch_size=4).flat
    first = net.hessian_product(x[:3], t[:3], v).flat
    net.passes += 1
    second = net.hessian_product(x[3:], t[3:], v).flat
    np.testing.assert_allclose(whole, (first + second) / 2, rtol=1e-12, atol=1e-15)


def test_no_piece_is_too_small_for_batch_norm() -> None:
    net = narrow("mlp", 1, batch_norm=True)
    x, t = images(net, 7)
    v = vector(net, 3)
    parts = [net.hessian_product(x[part], t[part], v).flat for part in (slice(2), slice(2, 4), slice(4, 7))]
    whole = net.hessian_product(x, t, v, batch_size=3).flat
    np.testing.assert_allclose(whole, (parts[0] * 2 + parts[1] * 2 + parts[2] * 3) / 7, rtol=1e-9, atol=1e-12)


def test_spectrum_is_that_of_the_matrix() -> None:
    net = mlp(input_shape=(3,), hidden=[4], classes=3, device=Device(dtype="float64"), **SMOOTH)
    for gauss_newton in (False, True):
        curvature = Curvature(net, *images(net, 9), batch_size=4, gauss_newton=gauss_newton)
        columns = [curvature.product(unit) for unit in np.eye(curvature.size)]
        exact = np.linalg.eigvalsh(np.array(columns))
        np.testing.assert_allclose(curvature.eigenvalues(2, tolerance=1e-10), exact[-2:], rtol=1e-8)
        np.testing.assert_allclose(curvature.eigenvalues(end="smallest", tolerance=1e-10), exact[:1], atol=1e-8)
        estimate = curvature.trace(probes=200)
        assert abs(estimate.value - exact.sum()) <= 4 * estimate.error
        density = curvature.density(steps=curvature.size)
        np.testing.assert_allclose(density.nodes[-3:], exact[-3:], rtol=1e-8)
    assert exact[0] >= -1e-12  # the Gauss-Newton matrix is positive semi-definite


def test_labels_may_be_rows() -> None:
    net = narrow("mlp", 1, **SMOOTH)
    x, t = images(net, 5)
    v = vector(net, 3)
    rows = np.eye(net.classes)[t]
    np.testing.assert_array_equal(net.hessian_product(x, rows, v).flat, net.hessian_product(x, t, v).flat)


def test_flat_product_has_the_order_of_the_parameters() -> None:
    net = narrow("mlp", 1, **SMOOTH)
    x, t = images(net, 5)
    v = net.hessian_product(x, t, vector(net, 3))  # any vector with a flat form
    matrix = Curvature(net, x, t)
    np.testing.assert_array_equal(matrix.product(v.flat), matrix.named_product(v).flat)
    assert matrix.size == net.params.flat.size


def test_wrong_arguments_are_refused() -> None:
    net = narrow("mlp", 1)
    x, t = images(net, 4)
    with pytest.raises(UserError, match="mlp has no parameter 'W9'"):
        net.hessian_product(x, t, {"W9": np.zeros(3)})
    with pytest.raises(ShapeError, match=r"'b1' must have shape \(10,\), got \(3,\)"):
        net.hessian_product(x, t, {"b1": np.zeros(3)})
    with pytest.raises(UserError, match="batch_size must be a whole number, 1 or more, got 0"):
        net.hessian_product(x, t, {}, batch_size=0)
    with refused("no variance", "batch_size=2 cuts 5 images into pieces of 1 and more"):
        Curvature(narrow("mlp", 1, batch_norm=True), *images(net, 5), batch_size=2)
