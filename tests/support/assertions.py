"""Assertions about errors: a `UserError` of one line that names the cause."""

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
    """Allow the block to succeed or to raise a `UserError` of one line, for hostile input."""
    message = ""
    try:
        yield
    except UserError as error:
        message = str(error)
    assert "\n" not in message
