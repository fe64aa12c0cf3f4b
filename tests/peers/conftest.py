"""The comparison with PyTorch that all tests here share, and a table of the differences found."""

from collections import defaultdict
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import pytest

# Only these tests use PyTorch; the session `peers` installs it, and fails if it finds no test.
collect_ignore_glob = [] if find_spec("torch") else ["*.py"]


@pytest.fixture
def near(request: pytest.FixtureRequest, record_property: Callable) -> Callable:
    """Return a function that compares an array with a tensor, relative to its maximum, and records the difference."""
    name = request.node.callspec.params["name"]

    def check(ours, peer, limit: float) -> None:
        expected = peer.detach().numpy()
        assert (ours.shape, ours.dtype) == (expected.shape, np.float64)
        scale = np.abs(expected).max()
        assert scale > 0
        difference = float(np.abs(ours - expected).max() / scale)
        record_property(name, difference)
        assert difference <= limit

    return check


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    found = defaultdict(list)
    for report in terminalreporter.stats.get("passed", []):
        for name, difference in report.user_properties:
            found[name].append(difference)
    if found:
        terminalreporter.section("worst relative difference to PyTorch")
    for name, differences in found.items():
        terminalreporter.line(f"{name:20} {max(differences):.1e} in {len(differences):,} comparisons")
