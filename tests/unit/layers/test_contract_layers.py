"""Every case of every layer and loss satisfies the contract of support/contract.py."""

import pytest
from support.contract import CHECKS, of_layer
from support.layer_cases import LAYER_CASES

from nl_layers import LayerCase


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("case", LAYER_CASES)
def test_contract_holds_for_layer(case: LayerCase, check) -> None:
    check(of_layer(case))
