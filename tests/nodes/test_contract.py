"""Every node keeps to the contract in every case."""

import pytest
from support.contract import CHECKS, of_node
from support.node_cases import NODE_CASES

from nl_nodes.cases import Case


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("case", NODE_CASES)
def test_node(case: Case, check) -> None:
    check(of_node(case))
