"""The plans that train, for each size of batch, against the same pass node by node.

How many images a plan is for, and how many workers share them, decides how it cuts them into pieces; a certificate,
made of a few images, sees little of that.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from nl_models import build
from nl_nodes import Device
from nl_nodes.verify import Planned
from nl_nodes.verify.certify import FAR
from nl_nodes.verify.precision import budget, distance

if TYPE_CHECKING:
    from nl_models import Network
    from nl_nodes.verify import Certificate


def unseen(net: Network, certificate: Certificate, wanted: Iterable[int]) -> list[int]:
    """The sizes, of those wanted, whose plan a network's certificate says nothing of; a pass node by node has none."""
    if not net.device.compiles:
        return []
    known = {plan.images for plan in certificate.plans if plan.workers == net.device.team.count}
    return sorted(set(wanted) - known)


def check_plan(net: Network, reference: Network, certificate: Certificate, images: int) -> Planned:
    """The verdict on the plan for so many images.

    In float64, which makes the same calls on the same pieces as any other dtype: in float32, rounding carries some
    values of a large batch over a kink, and moves whole elements of the gradient, rightly.

    Args:
        net: what trains.
        reference: its float64 twin, node by node.
        certificate: of its gradients.
        images: how many images a batch has.
    """
    workers = net.device.team.count
    compiled = build(**net.spec, device=Device(dtype="float64", threads=workers, workers="threads"))
    compiled.load_state_dict(net.state_dict())
    rng = np.random.default_rng(images)
    x, t = rng.standard_normal((images, *net.input_shape)), rng.integers(0, net.classes, images)
    exact = reference.training_pass(images)(x, t)
    given = compiled.training_pass(images)(x, t)
    eps, residuals = float(np.finfo("float64").eps), {v.name: v.residual for v in certificate.tensors}
    verdicts = []
    for name in exact:
        limit = budget(eps, certificate.nodes, residuals.get(name, 0.0))
        verdicts.append(Planned(images, workers, name, min(distance(exact[name], given[name]), FAR), limit))
    return max(verdicts, key=lambda p: p.rounding / p.budget)
