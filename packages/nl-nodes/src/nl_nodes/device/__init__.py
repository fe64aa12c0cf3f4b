"""Where arrays live and who computes with them."""

from nl_nodes.device.backend import Backend, backend_of, backends
from nl_nodes.device.device import Device

__all__ = ["Backend", "Device", "backend_of", "backends"]
