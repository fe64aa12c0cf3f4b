"""Schedules compared with PyTorch's."""

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler

from nl_layers.schedules import Exponential, OneCycle, ReduceOnPlateau

pytestmark = pytest.mark.peers


def optimizer(lr: float = 1.0) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)


@pytest.mark.parametrize(("steps", "start"), [(50, 0.3), (1000, 0.3), (40, 0.5)])
def test_one_cycle(steps: int, start: float) -> None:
    """PyTorch's steps 0 to T - 1 rise up to step T start - 1, ours over the whole time up to its share `start`."""
    theirs, ours = optimizer(), OneCycle(start, 25.0, 1e3)
    schedule = lr_scheduler.OneCycleLR(
        theirs, 1.0, steps, pct_start=start, div_factor=25.0, final_div_factor=1e3, cycle_momentum=False
    )
    rise = start * steps - 1
    for step in range(steps):
        time = start * step / rise if step <= rise else start + (1 - start) * (step - rise) / (steps - 1 - rise)
        assert ours.factor(time, 1.0) == pytest.approx(theirs.param_groups[0]["lr"], rel=1e-10)
        theirs.step()
        if step < steps - 1:
            schedule.step()


def test_exponential() -> None:
    theirs, ours = optimizer(), Exponential(0.9)
    schedule = lr_scheduler.ExponentialLR(theirs, 0.9)
    for epoch in range(20):
        assert ours.factor(epoch, 20) == pytest.approx(theirs.param_groups[0]["lr"], rel=1e-12)
        theirs.step()
        schedule.step()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("patience", "threshold"), [(0, 0.1), (1, 0.0), (3, 1e-4), (2, 0.3)])
def test_reduce_on_plateau(patience: int, threshold: float, seed: int) -> None:
    """PyTorch changes no rate by less than `eps`; 0 here."""
    theirs, ours = optimizer(), ReduceOnPlateau(0.5, patience, threshold)
    schedule = lr_scheduler.ReduceLROnPlateau(theirs, factor=0.5, patience=patience, threshold=threshold, eps=0)
    rng = np.random.default_rng(seed)
    losses = (rng.uniform(0.7, 1.3, 60) / np.linspace(1, 3, 60)).tolist()
    losses[10] = float("nan")
    rates = set()
    for epoch, loss in enumerate(losses, 1):
        schedule.step(loss)
        rates.add(theirs.param_groups[0]["lr"])
        assert ours.factor(epoch, 60, losses[:epoch]) == theirs.param_groups[0]["lr"]
    assert len(rates) > 2
