"""Curvature of a loss: exact products with the Hessian and the Gauss-Newton matrix, and their spectrum."""

from nl_nodes.curvature.products import gauss_newton_product, hessian_product
from nl_nodes.curvature.spectrum import Density, Trace, eigenvalues, spectral_density, trace

__all__ = [
    "Density",
    "Trace",
    "eigenvalues",
    "gauss_newton_product",
    "hessian_product",
    "spectral_density",
    "trace",
]
