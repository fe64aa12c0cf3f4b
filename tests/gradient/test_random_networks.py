"""More random networks, compiled and by the reference: a few, and with `--thorough` 300."""

import pytest
from support.random_networks import compare

pytestmark = pytest.mark.gradient

FIRST = 1000  # those from 0 on are compared by tests/unit/models/test_random_networks.py


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    count = 300 if metafunc.config.getoption("--thorough") else 5
    metafunc.parametrize("seed", range(FIRST, FIRST + count))


def test_a_random_network_compiled_is_the_reference(seed: int) -> None:
    compare(seed)
