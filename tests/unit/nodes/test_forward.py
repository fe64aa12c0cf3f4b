"""Every node's output against an independent formula, and no node without one."""

import pytest
from support import fused_oracles  # noqa: F401  (registers its formulas)
from support.contract import of_node
from support.forward_oracles import ORACLES, assert_forward
from support.node_cases import NODE_CASES, NODES

from nl_nodes.cases import Case


@pytest.mark.parametrize("case", NODE_CASES)
def test_output_matches_formula(case: Case) -> None:
    subject = of_node(case)
    assert_forward(subject.graph, subject.feeds)


@pytest.mark.parametrize("name", NODES)
def test_every_node_has_a_formula(name: str) -> None:
    assert name in ORACLES
