"""Eigenvalues, trace and density of matrices that are known."""

import sys

import numpy as np
import pytest
from support.assertions import refused

from nl_nodes.curvature import Density, eigenvalues, spectral_density, spectrum, trace
from nl_nodes.curvature.spectrum import Product, rademacher

SIZE = 60


def matrix(seed: int = 0) -> np.ndarray:
    """Return a symmetric matrix with eigenvalues of both signs."""
    a = np.random.default_rng(seed).standard_normal((SIZE, SIZE))
    return a + a.T


def times(a: np.ndarray) -> Product:
    return lambda v: a @ v


@pytest.mark.parametrize(
    ("end", "expected"),
    [("largest", slice(-3, None)), ("smallest", slice(3))],
)
def test_eigenvalues_are_those_at_the_end(end: str, expected: slice) -> None:
    found = eigenvalues(times(matrix()), SIZE, 3, end, tolerance=1e-10)
    np.testing.assert_allclose(found, np.linalg.eigvalsh(matrix())[expected], rtol=1e-9)


def test_eigenvalues_of_both_ends() -> None:
    exact = np.linalg.eigvalsh(matrix())
    np.testing.assert_allclose(eigenvalues(times(matrix()), SIZE, 2, "both", 1e-10), exact[[0, -1]], rtol=1e-9)
    for end, least in (("both", 2), ("largest", 1)):
        with refused(f"eigenvalues: count must be a whole number from {least} to {SIZE}, got {least - 1}"):
            eigenvalues(times(matrix()), SIZE, least - 1, end)


def test_all_eigenvalues_but_one() -> None:
    values = np.arange(1.0, 6.0)
    np.testing.assert_allclose(eigenvalues(lambda v: values * v, 5, 4, tolerance=1e-10), values[1:], rtol=1e-9)


@pytest.mark.parametrize("size", [1, 2, SIZE])
@pytest.mark.parametrize("end", ["largest", "smallest"])
def test_all_eigenvalues(size: int, end: str) -> None:
    whole = matrix()[:size, :size]
    np.testing.assert_allclose(eigenvalues(times(whole), size, size, end), np.linalg.eigvalsh(whole), rtol=1e-10)


@pytest.mark.parametrize("seed", range(4))
def test_simple_numbers_in_the_null_space_do_not_hide_the_largest_eigenvalue(seed: int) -> None:
    # A vector of +1 and -1 is in it for some seeds.
    np.testing.assert_allclose(eigenvalues(times(np.array([[1.0, -1.0], [-1.0, 1.0]])), 2, seed=seed), [2.0])
    np.testing.assert_allclose(eigenvalues(times(np.eye(4) - 1 / 4), 4, seed=seed), [1.0])


def test_eigenvalues_are_within_the_tolerance_and_repeatable() -> None:
    calls = []

    def product(v: np.ndarray) -> np.ndarray:
        calls.append(v.copy())
        return matrix() @ v

    first = eigenvalues(product, SIZE, seed=5)
    assert abs(first[0] / np.linalg.eigvalsh(matrix())[-1] - 1) <= 1e-3
    start = np.random.default_rng(5).standard_normal(SIZE)
    np.testing.assert_allclose(calls[0] / np.linalg.norm(calls[0]), start / np.linalg.norm(start))
    np.testing.assert_array_equal(first, eigenvalues(product, SIZE, seed=5))


def test_trace_is_unbiased_and_its_error_is_the_spread() -> None:
    samples = [trace(times(matrix()), SIZE, 5, seed) for seed in range(200)]
    values = np.array([sample.value for sample in samples])
    deviation = np.sqrt(2 * (np.sum(matrix() ** 2) - np.sum(np.diag(matrix()) ** 2)) / 5)
    assert abs(values.mean() - np.trace(matrix())) <= 4 * deviation / np.sqrt(200)
    assert abs(values.std() / deviation - 1) <= 0.2
    assert abs(np.sqrt(np.mean([sample.error**2 for sample in samples])) / deviation - 1) <= 0.2


def test_trace_is_the_mean_over_the_probes() -> None:
    vectors = [rademacher(3, k, SIZE) for k in range(4)]
    samples = [z @ matrix() @ z for z in vectors]
    estimate = trace(times(matrix()), SIZE, 4, seed=3)
    np.testing.assert_allclose(estimate, (np.mean(samples), np.std(samples, ddof=1) / 2), rtol=1e-12)


def test_a_product_may_be_a_list_or_in_float32() -> None:
    values = np.array([1.0, 2.0, 4.0])
    for product in (lambda v: (values * v).tolist(), lambda v: (values * v).astype(np.float32)):
        np.testing.assert_allclose(spectral_density(product, 3).nodes, values, rtol=1e-6)
        assert trace(product, 3).value == 7


def test_density_has_the_moments_that_the_probes_see() -> None:
    density = spectral_density(times(matrix()), SIZE, steps=5, probes=3, seed=4)
    assert density.nodes.shape == density.weights.shape == (15,)
    for power in range(10):  # a quadrature of 5 nodes is exact for them
        seen = [rademacher(4, k, SIZE) for k in range(3)]
        exact = np.mean([z @ np.linalg.matrix_power(matrix(), power) @ z / SIZE for z in seen])
        np.testing.assert_allclose(density.weights @ density.nodes**power, exact, rtol=1e-10)


def test_density_of_all_steps_has_every_eigenvalue() -> None:
    density = spectral_density(times(matrix()), SIZE, steps=SIZE)
    np.testing.assert_allclose(density.nodes, np.linalg.eigvalsh(matrix()), atol=1e-10)


def test_large_eigenvalues_appear_once() -> None:
    values = np.concatenate([np.linspace(0, 1, SIZE - 3), [1e3, 1e4, 1e6]])  # without orthogonality copies appear
    density = spectral_density(lambda v: values * v, SIZE, steps=SIZE)
    np.testing.assert_allclose(density.nodes, values, rtol=1e-9, atol=1e-9)


def test_density_ends_where_the_space_is_exhausted() -> None:
    values = np.repeat([0.0, 1.0, 7.0], SIZE // 3)
    density = spectral_density(lambda v: values * v, SIZE, steps=20)
    np.testing.assert_allclose(density.nodes, [0, 1, 7], atol=1e-12)
    np.testing.assert_allclose(density.weights, np.full(3, 1 / 3), rtol=1e-12)


def test_density_scales_with_the_matrix() -> None:
    one, tiny = (spectral_density(times(matrix() * scale), SIZE, steps=10) for scale in (1, 1e-20))
    np.testing.assert_allclose(tiny.nodes * 1e20, one.nodes, rtol=1e-9)


def test_tridiagonal_matrix_is_symmetric() -> None:
    found = spectrum.tridiagonal(times(matrix()), rademacher(0, 0, SIZE), 5)
    np.testing.assert_array_equal(found, found.T)
    assert (np.diag(found, 1) > 0).all()


def test_matrix_of_zeros() -> None:
    assert eigenvalues(np.zeros_like, SIZE, 2).tolist() == [0.0, 0.0]
    assert trace(np.zeros_like, SIZE) == (0.0, 0.0)
    density = spectral_density(np.zeros_like, SIZE)
    assert (density.nodes.tolist(), density.weights.tolist()) == ([0.0], [1.0])


def test_smoothed_density_is_a_sum_of_gaussians() -> None:
    density = Density(np.array([0.0, 3.0]), np.array([0.25, 0.75]))
    points = np.linspace(-5, 8, 2001)
    smooth = density.at(points, 0.5)
    np.testing.assert_allclose(np.trapezoid(smooth, points), 1, rtol=1e-9)
    np.testing.assert_allclose(np.trapezoid(smooth * points, points), 2.25, rtol=1e-9)
    np.testing.assert_allclose(density.at([3.0], 0.5), 0.75 / (0.5 * np.sqrt(2 * np.pi)), rtol=1e-7)
    assert density.at(points[7], 0.5) == smooth[7]


def test_a_probe_has_the_top_bits_of_numpys_generator() -> None:
    words = np.random.Philox(counter=2**256 - 1, key=((2**32 + 2) << 64) + 3).random_raw(12)
    np.testing.assert_array_equal(rademacher(3, 2, 12), np.where(words < 2**63, 1.0, -1.0))


def test_probes_are_independent_signs() -> None:
    probes = np.array([rademacher(seed, k, 4000) for seed in range(2) for k in range(3)])
    assert set(np.unique(probes)) == {-1.0, 1.0}
    assert np.abs(np.corrcoef(probes) - np.eye(6)).max() < 0.08
    assert np.abs(probes.mean(axis=1)).max() < 0.08


def test_wrong_arguments_are_refused() -> None:
    product = times(matrix())
    with refused("eigenvalues: end='larg'", "largest"):
        eigenvalues(product, SIZE, end="larg")
    for count in (0, 1.5, SIZE + 1):
        with refused(f"eigenvalues: count must be a whole number from 1 to 60, got {count}"):
            eigenvalues(product, SIZE, count)
    with refused("eigenvalues: tolerance must be a number above 0, got 0"):
        eigenvalues(product, SIZE, tolerance=0)
    with refused("trace: probes must be a whole number, 2 or more, got 1"):
        trace(product, SIZE, 1)
    with refused("spectral_density: steps must be a whole number, 1 or more, got 0"):
        spectral_density(product, SIZE, 0)
    with refused("spectral_density: probes must be a whole number, 1 or more, got 0"):
        spectral_density(product, SIZE, probes=0)
    for function in (eigenvalues, trace, spectral_density):
        with refused(f"{function.__name__}: seed must be a whole number, 0 or more, got -1"):
            function(product, SIZE, seed=-1)
    with refused("Density.at: width must be a number above 0, got 0"):
        Density(np.zeros(1), np.ones(1)).at([0.0], 0)


def test_a_product_that_is_not_finite_is_refused() -> None:
    def product(v: np.ndarray) -> np.ndarray:
        return np.full_like(v, np.nan)

    for function in (eigenvalues, trace, spectral_density):
        with refused("the product with a vector is not finite"):
            function(product, SIZE)


def test_eigenvalues_that_do_not_converge_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectrum, "RESTARTS", 1)
    with refused("eigenvalues: the smallest did not converge to tolerance=1e-14", "give a larger one"):
        eigenvalues(times(matrix()), SIZE, end="smallest", tolerance=1e-14)


def test_eigenvalues_without_scipy_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.sparse.linalg", None)
    with refused("eigenvalues needs SciPy", "nl-nodes[curvature]"):
        eigenvalues(times(matrix()), SIZE)
