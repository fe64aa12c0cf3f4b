"""Products of a loss's Hessian, and of its Gauss-Newton matrix, with a vector, exact up to rounding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nl_nodes.errors import ShapeError, UserError
from nl_nodes.graph import Graph
from nl_nodes.node import Node
from nl_nodes.nodes.leaves import Input, Parameter
from nl_nodes.verify.numeric import COMPLEX_H, ComplexPass

LOGITS = "logits of the loss"
"""The name of the leaf that stands for the logits; no keyword argument, so that no other leaf has it."""


def hessian_product(graph: Graph, feeds: Mapping[str, Any], vectors: Mapping[str, Any]) -> dict[str, Any]:
    """Return `H v` by leaf name, in float64: the Hessian of a scalar output times a vector.

    The gradient is a function of the leaves, of which `H v` is the derivative along v: the imaginary part of one
    forward and backward pass at `leaves + i h v`, divided by h. Nothing is subtracted, so the result is exact up to
    rounding. The forward pass takes the branches of the real one, so at kinks `H v` is the derivative of the gradient
    that `Pass.backward` returns. The pass is that of `graph.passes`, with its dropout masks; neither the number of
    passes nor buffers change.

    Args:
        graph: its first output is the loss, without axes; its arrays are NumPy's.
        feeds: each input's array by name; a parameter that is not fed has its own value. Floats of any precision are
            computed in complex128.
        vectors: v by leaf name, in the leaves' shapes; 0 for a parameter that is not named.

    Returns:
        The product for each parameter, and for each other leaf that `vectors` names.

    Raises:
        UserError: for a vector of a leaf without a gradient.
        ShapeError: for a vector that does not fit its leaf, and a loss with axes.

    Source: Pearlmutter, Fast Exact Multiplication by the Hessian (1994); Squire and Trapp, Using Complex Variables to
    Estimate Derivatives (1998); Martins, Sturdza and Alonso, The Complex-Step Derivative Approximation (2003).

    >>> from nl_nodes import Sum
    >>> x = Parameter(np.array([1.0, 2.0]), name="x")
    >>> hessian_product(Graph(Sum(x**3)), {}, {"x": np.array([1.0, 10.0])})  # the Hessian is diag(6 x)
    {'x': array([  6., 120.])}
    """
    run = ComplexPass(graph, _moved(graph, feeds, vectors))
    _check_scalar(run.results[0])
    return _of_parameters(graph, vectors, {name: grad.imag / COMPLEX_H for name, grad in run.backward(1).items()})


def gauss_newton_product(graph: Graph, feeds: Mapping[str, Any], vectors: Mapping[str, Any]) -> dict[str, Any]:
    """Return `G v` by leaf name, in float64, for the generalised Gauss-Newton matrix `G = J^T H_L J`.

    J is the Jacobian of the logits, `H_L` the Hessian of the loss by the logits. `J v` is the imaginary part of the
    logits at `leaves + i h v`, divided by h; `H_L (J v)` is a Hessian's product with it; a real backward pass
    multiplies by `J^T`. G is positive semi-definite where the loss is convex in the logits, as cross-entropy is.

    Args:
        graph: its first two outputs are the loss, without axes, and the logits, through which alone the loss depends
            on parameters.
        feeds, vectors: see `hessian_product`.

    Returns:
        The product for each parameter, and for each other leaf that `vectors` names.

    Raises:
        UserError, ShapeError: see `hessian_product`; `UserError` too for a loss that depends on parameters otherwise.

    Source: Schraudolph, Fast Curvature Matrix-Vector Products for Second-Order Gradient Descent (2002), section 3.
    """
    head, body = _split(graph)
    moved = _moved(graph, feeds, vectors)
    logits = ComplexPass(body, {name: moved[name] for name in body.leaves}).results[0]
    at_loss = {name: moved[name].real for name in head.leaves if name != LOGITS} | {LOGITS: logits.real}
    u = hessian_product(head, at_loss, {LOGITS: logits.imag / COMPLEX_H})[LOGITS]
    run = body.run(**{name: moved[name].real for name in body.leaves})
    return _of_parameters(graph, vectors, run.backward(u))


def _moved(graph: Graph, feeds: Mapping[str, Any], vectors: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arrays of all leaves in double precision, at `leaves + i h v`."""
    for name in vectors:
        if name not in graph.leaves or not graph.leaves[name].trainable:
            known = ", ".join(sorted(name for name, leaf in graph.leaves.items() if leaf.trainable))
            raise UserError(f"vectors: the graph has no gradient of {name!r}: it has those of {known}")
    unfed = {name: leaf.value for name, leaf in graph.leaves.items() if name not in feeds and leaf.value is not None}
    moved = {name: _double(array) for name, array in {**feeds, **unfed}.items()}
    for name, vector in vectors.items():
        if name not in moved:
            raise UserError(f"the graph's input {name!r} is not fed")
        if np.shape(vector) != moved[name].shape:
            raise ShapeError(f"vectors: that of {name!r} must have shape {moved[name].shape}, got {np.shape(vector)}")
        moved[name] = moved[name] + 1j * COMPLEX_H * np.asarray(vector, dtype=np.float64)
    return moved


def _double(array: Any) -> Any:
    array = np.asarray(array)
    return array.astype(np.float64) if np.issubdtype(array.dtype, np.floating) else array


def _check_scalar(loss: Any) -> None:
    if loss.shape:
        raise ShapeError(f"the graph's first output must be the loss, without axes, got shape {loss.shape}")


def _of_parameters(graph: Graph, vectors: Mapping[str, Any], grads: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arrays of parameters and of the leaves that `vectors` names."""
    wanted = {name for name, leaf in graph.leaves.items() if isinstance(leaf, Parameter)} | set(vectors)
    return {name: grad for name, grad in grads.items() if name in wanted}


def _split(graph: Graph) -> tuple[Graph, Graph]:
    """Return the graph from the logits, then a leaf, to the loss, and the graph up to the logits."""
    if len(graph.outputs) < 2:
        raise UserError("gauss_newton_product: the graph's outputs must be the loss and the logits")
    loss, logits = graph.outputs[:2]
    changed: dict[Node, Node] = {logits: Input(LOGITS)}
    for node in graph.order:
        if any(n in changed for n in node.inputs):
            changed[node] = node.replace([changed.get(n, n) for n in node.inputs])
    head, body = Graph(changed.get(loss, loss)), Graph(logits)
    head.passes = body.passes = graph.passes
    for name, leaf in head.leaves.items():
        if isinstance(leaf, Parameter):
            raise UserError(f"gauss_newton_product: the loss depends on {name!r} other than through the logits")
    return head, body
