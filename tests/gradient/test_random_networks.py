"""Further random networks, compiled and by the reference: a few, or 300 with `--thorough`."""

import pytest
from support.random_networks import ResidualStack, compare

pytestmark = pytest.mark.gradient

FIRST = 1000  # tests/unit/models/test_random_networks.py compares those from seed 0


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    count = 300 if metafunc.config.getoption("--thorough") else 5
    metafunc.parametrize("seed", range(FIRST, FIRST + count))


def test_compiled_random_network_matches_the_reference(seed: int) -> None:
    compare(seed)


def test_compiled_random_residual_network_matches_the_reference(seed: int) -> None:
    compare(seed, kind=ResidualStack)
