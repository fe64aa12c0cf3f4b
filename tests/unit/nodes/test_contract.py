"""Every node fulfils the node contract in every case."""

import pytest
from support.contract import CHECKS, of_node
from support.fused_contract import FUSED_CHECKS
from support.node_cases import FUSED_NODE_CASES, NODE_CASES

from nl_nodes.cases import Case


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("case", NODE_CASES)
def test_node(case: Case, check) -> None:
    check(of_node(case))


@pytest.mark.parametrize("check", FUSED_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("case", FUSED_NODE_CASES)
def test_fused_node(case: Case, check) -> None:
    check(of_node(case))
