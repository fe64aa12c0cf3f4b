"""How near is near: the comparison that all peers' tests share, and the table of what it found."""

from collections import defaultdict
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import pytest

# PyTorch belongs to this tier alone; the session `peers` installs it, and fails where it finds no test.
collect_ignore_glob = [] if find_spec("torch") else ["*.py"]


@pytest.fixture
def near(request: pytest.FixtureRequest, record_property: Callable) -> Callable:
    """Asserts that an array is a tensor, relative to the tensor's maximum, and records how near it is."""
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
