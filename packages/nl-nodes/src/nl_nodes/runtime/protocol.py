"""Messages between the processes of an executor: JSON, with the file descriptor of shared memory attached."""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

import numpy as np

HEAD = struct.Struct("=Q")


def send(link: socket.socket, message: dict[str, Any], descriptor: int | None = None) -> None:
    """Send a message, with a file descriptor where one is given."""
    body = json.dumps(message).encode()
    head = HEAD.pack(len(body))
    if descriptor is None:
        link.sendall(head + body)
    else:
        socket.send_fds(link, [head], [descriptor])
        link.sendall(body)


def receive(link: socket.socket) -> tuple[dict[str, Any], int | None]:
    """Receive a message and its file descriptor; raise `EOFError` where the other end has closed."""
    head, descriptors, _, _ = socket.recv_fds(link, HEAD.size, 1)
    head += _receive_exactly(link, HEAD.size - len(head))
    body = _receive_exactly(link, HEAD.unpack(head)[0])
    return json.loads(body), (descriptors[0] if descriptors else None)


def _receive_exactly(link: socket.socket, count: int) -> bytearray:
    body = bytearray(count)
    remaining = memoryview(body)
    while remaining:
        received = link.recv_into(remaining)
        if not received:
            raise EOFError
        remaining = remaining[received:]
    return body


def encode(value: Any) -> Any:
    """Encode an argument that is not an array as JSON."""
    if isinstance(value, np.generic):
        return {"scalar": [value.dtype.str, value.item()]}
    return {"axes": list(value)} if isinstance(value, tuple) else value


def decode(value: Any, segments: dict[int, Any]) -> Any:
    """Decode an argument; arrays are views of the memory segments."""
    if not isinstance(value, dict):
        return value
    if "scalar" in value:
        dtype, number = value["scalar"]
        return np.dtype(dtype).type(number)
    if "axes" in value:
        return tuple(value["axes"])
    number, offset, shape, strides, dtype = value["array"]
    return np.ndarray(shape, np.dtype(dtype), segments[number], offset, strides)
