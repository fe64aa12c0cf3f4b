"""Devices: array libraries, precision and workers."""

from nl_nodes.device.backend import Backend, backend_of, backends
from nl_nodes.device.device import Device

__all__ = ["Backend", "Device", "backend_of", "backends"]
