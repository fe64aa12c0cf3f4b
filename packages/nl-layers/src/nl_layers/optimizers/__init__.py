"""Optimizers, which update parameters in place from their gradients.

Each keeps its state by parameter name and takes any dictionaries of arrays; with those of a network an elementwise one
updates the whole buffer at once. `lr` may be changed between steps, as schedules do.
"""

from nl_layers.optimizers.adaptive import AdaGrad, Adam, AdamW, RMSprop
from nl_layers.optimizers.base import Optimizer
from nl_layers.optimizers.gradient import SGD, Lion, Momentum, Nesterov
from nl_layers.optimizers.layerwise import LAMB, Muon

__all__ = [
    "LAMB",
    "SGD",
    "AdaGrad",
    "Adam",
    "AdamW",
    "Lion",
    "Momentum",
    "Muon",
    "Nesterov",
    "Optimizer",
    "RMSprop",
]
