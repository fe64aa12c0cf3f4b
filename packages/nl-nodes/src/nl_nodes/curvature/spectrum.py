"""Eigenvalues, trace and spectral density of a symmetric matrix that is known by its products alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from nl_nodes.arguments import COUNT, NATURAL, POSITIVE, Range, near
from nl_nodes.errors import UserError
from nl_nodes.philox import philox

Product = Callable[[Any], Any]
"""Returns the matrix times a vector, both (size,) in float64."""

ENDS = {"largest": "LA", "smallest": "SA", "both": "BE"}

PROBES = Range("a whole number, 2 or more", at_least=2, whole=True)

FIRST_STREAM = 2**32
"""Stream of the first probe; those of dropout are the numbers of layers."""

RESTARTS = 100
"""The most restarts of Lanczos, each of about 20 products."""

BREAKDOWN = 1e-13
"""A residual of Lanczos of this size, relative to the matrix, is rounding: the Krylov space is exhausted."""


class Trace(NamedTuple):
    """An estimate of a trace, and its standard error."""

    value: float
    error: float


@dataclass(frozen=True)
class Density:
    """A spectral density: the weighted sum of Dirac deltas at the nodes.

    Attributes:
        nodes: (n,), where eigenvalues are.
        weights: (n,), the fraction of eigenvalues near each node; their sum is 1.
    """

    nodes: Any
    weights: Any

    def at(self, points: Any, width: float) -> Any:
        """Return the density at points of any shape, smoothed by a Gaussian with the standard deviation `width`."""
        POSITIVE.check("Density.at", width=width)
        distances = (np.asarray(points)[..., None] - self.nodes) / width
        return np.exp(-(distances**2) / 2) @ self.weights / (width * np.sqrt(2 * np.pi))


def eigenvalues(
    product: Product, size: int, count: int = 1, end: str = "largest", tolerance: float = 1e-3, seed: int = 0
) -> Any:
    """Return `count` eigenvalues (count,) at an end of the spectrum, ascending, by implicitly restarted Lanczos.

    Args:
        product: multiplies a vector by the symmetric matrix.
        size: number of rows of the matrix.
        count: how many, up to `size`; all of them from the whole matrix.
        end: "largest" or "smallest", by value and not by magnitude, or "both": half from each end.
        tolerance: the residual's norm relative to the eigenvalue, which bounds the relative error.
        seed: seed of the first vector.

    Raises:
        UserError: for a wrong argument, a product that is not finite, eigenvalues that do not converge, such as those
            near 0, or without SciPy: the extra `nl-nodes[curvature]`.

    Source: Lanczos (1950); Lehoucq, Sorensen and Yang, ARPACK Users' Guide (1998), chapter 4.

    >>> eigenvalues(lambda v: np.array([1.0, -5.0, 3.0, 2.0]) * v, 4, count=2)
    array([2., 3.])
    """
    if end not in ENDS:
        raise UserError(f"eigenvalues: end={end!r}: {near(end, ENDS)}")
    least = 2 if end == "both" else 1
    Range(f"a whole number from {least} to {size}", at_least=least, at_most=size, whole=True).check(
        "eigenvalues", count=count
    )
    POSITIVE.check("eigenvalues", tolerance=tolerance)
    NATURAL.check("eigenvalues", seed=seed)
    multiply = _finite(product)
    if count == size:  # too many for Lanczos
        return np.linalg.eigvalsh(np.stack([multiply(unit) for unit in np.eye(size)]))
    try:
        from scipy.sparse.linalg import ArpackError, ArpackNoConvergence, LinearOperator, eigsh
    except ImportError:
        raise UserError("eigenvalues needs SciPy: python -m pip install 'nl-nodes[curvature]'") from None
    # Not of +1 and -1, which may be in the null space of a matrix of simple numbers.
    start = np.random.default_rng(seed).standard_normal(size)
    operator = LinearOperator((size, size), matvec=multiply, dtype=np.float64)
    options = {"tol": tolerance, "maxiter": RESTARTS, "v0": start, "return_eigenvectors": False}
    try:
        return np.sort(eigsh(operator, count, which=ENDS[end], **options))
    except ArpackNoConvergence:
        raise UserError(
            f"eigenvalues: the {end} did not converge to tolerance={tolerance:g}, which is relative and out of reach "
            "for those near 0: give a larger one"
        ) from None
    except ArpackError:
        if multiply(start).any():
            raise
        return np.zeros(count)  # ARPACK refuses a matrix of zeros


def trace(product: Product, size: int, probes: int = 10, seed: int = 0) -> Trace:
    """Return an unbiased estimate of the trace: the mean of `z^T H z` over random vectors z of +1 and -1.

    Args:
        product: multiplies a vector by the symmetric matrix H.
        size: number of rows of the matrix.
        probes: number of random vectors, 2 or more.
        seed: seed of the vectors.

    Source: Hutchinson, A Stochastic Estimator of the Trace of the Influence Matrix (1990).

    >>> trace(lambda v: np.array([1.0, 2.0, 3.0]) * v, 3, probes=2)  # exact for a diagonal matrix
    Trace(value=6.0, error=0.0)
    """
    PROBES.check("trace", probes=probes)
    NATURAL.check("trace", seed=seed)
    multiply = _finite(product)
    vectors = (rademacher(seed, k, size) for k in range(probes))
    samples = [float(z @ multiply(z)) for z in vectors]
    return Trace(float(np.mean(samples)), float(np.std(samples, ddof=1) / np.sqrt(probes)))


def spectral_density(product: Product, size: int, steps: int = 80, probes: int = 1, seed: int = 0) -> Density:
    """Return the density of eigenvalues by stochastic Lanczos quadrature.

    From each random vector of +1 and -1, `steps` of Lanczos with full reorthogonalisation give a tridiagonal matrix,
    whose eigenvalues are the nodes, and the squared first components of whose eigenvectors the weights of a Gaussian
    quadrature of the density that the vector sees. The basis needs `steps * size` numbers of memory.

    Args:
        product: multiplies a vector by the symmetric matrix.
        size: number of rows of the matrix.
        steps: nodes for each vector.
        probes: number of random vectors.
        seed: seed of the vectors.

    Source: Golub and Welsch, Calculation of Gauss Quadrature Rules (1969); Ghorbani, Krishnan and Xiao, An
    Investigation into Neural Net Optimization via Hessian Eigenvalue Density (2019), algorithm 2.

    >>> density = spectral_density(lambda v: np.array([1.0, 1.0, 5.0, 5.0]) * v, 4)
    >>> density.nodes.round(12), density.weights.round(12)
    (array([1., 5.]), array([0.5, 0.5]))
    """
    COUNT.check("spectral_density", steps=steps, probes=probes)
    NATURAL.check("spectral_density", seed=seed)
    nodes, weights = [], []
    for k in range(probes):
        values, vectors = np.linalg.eigh(tridiagonal(_finite(product), rademacher(seed, k, size), steps))
        nodes.append(values)
        weights.append(vectors[0] ** 2 / probes)
    return Density(np.concatenate(nodes), np.concatenate(weights))


def tridiagonal(product: Product, start: Any, steps: int) -> Any:
    """Return the tridiagonal matrix (n, n) of at most `steps` Lanczos steps; fewer where the Krylov space is exhausted.

    Source: Golub and Van Loan, Matrix Computations (2013), 10.1 and 10.3.
    """
    basis = np.empty((min(steps, start.size), start.size))
    diagonal: list[float] = []
    beside: list[float] = []
    q = start / np.linalg.norm(start)
    for k in range(len(basis)):
        basis[k] = q
        w = product(q)
        diagonal.append(float(q @ w))
        for _ in range(2):  # the first leaves errors of rounding, relative to what it removes
            w = w - (basis[: k + 1] @ w) @ basis[: k + 1]
        norm = float(np.linalg.norm(w))
        if k + 1 == len(basis) or norm <= BREAKDOWN * max(map(abs, (*diagonal, *beside))):
            break
        beside.append(norm)
        q = w / norm
    return np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1)


def rademacher(seed: int, probe: int, size: int) -> Any:
    """Return a vector (size,) of +1 and -1, the same on every machine: the top bits of Philox4x64-10's words."""
    return 1.0 - 2.0 * (philox(seed, FIRST_STREAM + probe, 0, size) >> 63)


def _finite(product: Product) -> Product:
    """Return a product that raises `UserError` where the result is not finite."""

    def multiply(v: Any) -> Any:
        result = np.asarray(product(v))
        if not np.isfinite(result).all():
            raise UserError("the product with a vector is not finite: look at the loss and gradient at these weights")
        return result

    return multiply
