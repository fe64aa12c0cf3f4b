"""Memory full of NaN where a pass must not read before it writes."""

from __future__ import annotations

from nl_nodes.compiler import Plan

NAN = 0xFF  # every byte of a NaN


def poison(plan: Plan) -> None:
    """Fill the memory that the blocks of a plan share, which holds nothing between two passes."""
    plan.shared[...] = NAN
