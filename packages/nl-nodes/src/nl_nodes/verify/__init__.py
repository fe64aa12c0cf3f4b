"""Verification: analytic gradients against numerical ones."""

from nl_nodes.verify.check import Residual, check_graph, judge, sample_check
from nl_nodes.verify.draws import draw, upstream
from nl_nodes.verify.oracles import central, complex_step

__all__ = ["Residual", "central", "check_graph", "complex_step", "draw", "judge", "sample_check", "upstream"]
