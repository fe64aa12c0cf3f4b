"""The kernels of all models under AddressSanitizer, each array in memory of its own."""

from __future__ import annotations

import pytest
from support.kernels.executor import COMPILER, NO_COMPILER
from support.kernels.forms import WIDTHS
from support.kernels.sanitized import sanitized

pytestmark = [pytest.mark.kernels, pytest.mark.skipif(COMPILER is None, reason=NO_COMPILER)]
FORMS = ("plain", "batch norm", "dropout", "odd sizes")


@pytest.mark.parametrize("name", WIDTHS)
def test_kernels_touch_only_their_arrays(name: str) -> None:
    done = sanitized(name, *FORMS)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("fault", ["a read", "a write"])
def test_an_access_one_element_beside_is_found(fault: str) -> None:
    done = sanitized(fault)
    assert done.returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr
