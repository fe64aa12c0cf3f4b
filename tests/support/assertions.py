"""Assertions on refusals: a `UserError` of one line that names the cause."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from nl_nodes import UserError


@contextmanager
def refused(*named: object) -> Iterator[None]:
    with pytest.raises(UserError) as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message
    for thing in named:
        assert str(thing) in message


@contextmanager
def at_most_refused() -> Iterator[None]:
    """For hostile input: the block may succeed or refuse, in one line, and nothing else."""
    message = ""
    try:
        yield
    except UserError as error:
        message = str(error)
    assert "\n" not in message
