"""Verification of a network before and during training."""

from nl_training.verification.certify import certify_network, feeds_for, training_graph, verify
from nl_training.verification.chain import Chain
from nl_training.verification.outcome import Outcome
from nl_training.verification.steps import Training
from nl_training.verification.twins import batch_of, twin

__all__ = [
    "Chain",
    "Outcome",
    "Training",
    "batch_of",
    "certify_network",
    "feeds_for",
    "training_graph",
    "twin",
    "verify",
]
