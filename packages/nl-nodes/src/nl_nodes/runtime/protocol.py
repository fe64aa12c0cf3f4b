"""What the processes of a team say to each other: JSON, with a file descriptor beside it where memory is meant."""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

import numpy as np

HEAD = struct.Struct("=Q")


def send(link: socket.socket, message: dict[str, Any], descriptor: int | None = None) -> None:
    """Send a message."""
    body = json.dumps(message).encode()
    head = HEAD.pack(len(body))
    if descriptor is None:
        link.sendall(head + body)
    else:
        socket.send_fds(link, [head], [descriptor])
        link.sendall(body)


def receive(link: socket.socket) -> tuple[dict[str, Any], int | None]:
    """The next message; raises `EOFError` when the other end is gone."""
    head, descriptors, _, _ = socket.recv_fds(link, HEAD.size, 1)
    head += _exactly(link, HEAD.size - len(head))
    body = _exactly(link, HEAD.unpack(head)[0])
    return json.loads(body), (descriptors[0] if descriptors else None)


def _exactly(link: socket.socket, count: int) -> bytearray:
    body = bytearray(count)
    rest = memoryview(body)
    while rest:
        received = link.recv_into(rest)
        if not received:
            raise EOFError
        rest = rest[received:]
    return body


def encode(value: Any) -> Any:
    """An argument that is no array, as JSON."""
    if isinstance(value, np.generic):
        return {"scalar": [value.dtype.str, value.item()]}
    return {"axes": list(value)} if isinstance(value, tuple) else value


def decode(value: Any, segments: dict[int, Any]) -> Any:
    """The argument; arrays are views of the segments."""
    if not isinstance(value, dict):
        return value
    if "scalar" in value:
        dtype, number = value["scalar"]
        return np.dtype(dtype).type(number)
    if "axes" in value:
        return tuple(value["axes"])
    number, at, shape, strides, dtype = value["array"]
    return np.ndarray(shape, np.dtype(dtype), segments[number], at, strides)
