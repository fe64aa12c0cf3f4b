"""Messages between worker processes: framing, descriptors, encoded arguments."""

import json
import os
import socket
from threading import Thread
from typing import Any

import numpy as np
import pytest

from nl_nodes.runtime import protocol


def connection() -> tuple[socket.socket, socket.socket]:
    """A pair of sockets, the second with a timeout."""
    here, there = socket.socketpair()
    there.settimeout(10)
    return here, there


def test_messages_arrive_one_by_one_whatever_the_pieces_they_come_in() -> None:
    here, there = connection()
    with here, there:
        long = {"text": "x" * 3_000_000}
        sender = Thread(target=lambda: [protocol.send(here, m) for m in ({"a": 1}, long, {"b": 2})])
        sender.start()
        assert [protocol.receive(there) for _ in range(3)] == [({"a": 1}, None), (long, None), ({"b": 2}, None)]
        sender.join()
        body = json.dumps([3]).encode()
        for byte in protocol.HEAD.pack(len(body)) + body:
            here.send(bytes([byte]))
        assert protocol.receive(there) == ([3], None)


def test_a_message_that_breaks_off_is_an_end() -> None:
    for sent in (b"", b"\1", protocol.HEAD.pack(5), protocol.HEAD.pack(5) + b"[1"):
        here, there = connection()
        with there:
            with here:
                here.sendall(sent)
            with pytest.raises(EOFError):
                protocol.receive(there)


def test_a_descriptor_travels_beside_its_message() -> None:
    here, there = connection()
    read, write = os.pipe()
    with here, there:
        protocol.send(here, {"a": 1}, write)
        protocol.send(here, {"b": 2})
        message, found = protocol.receive(there)
        assert message == {"a": 1}
        assert found is not None
        os.write(found, b"through")
        assert os.read(read, 10) == b"through"
        assert protocol.receive(there) == ({"b": 2}, None)
    for descriptor in (read, write, found):
        os.close(descriptor)


@pytest.mark.parametrize("value", [3, 0.1, "same_kind", None, True, (0, 2), (), np.float32(0.1), np.int64(-3)])
def test_an_argument_arrives_as_it_was(value: Any) -> None:
    found = protocol.decode(json.loads(json.dumps(protocol.encode(value))), {})
    assert type(found) is type(value)
    assert found == value


def test_an_array_is_a_view_of_its_segment() -> None:
    memory = np.arange(60, dtype=np.int16)
    found = protocol.decode({"array": [1, 4, (3, 2), (2, 6), "<i2"]}, {0: np.zeros(200, np.uint8), 1: memory})
    np.testing.assert_array_equal(found, [[2, 5], [3, 6], [4, 7]])
    assert found.dtype == np.int16
    assert np.shares_memory(found, memory)
