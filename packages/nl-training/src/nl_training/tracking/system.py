"""System metrics: processor, memory, disk and network, sampled between training steps."""

from __future__ import annotations

import time

import psutil

MEGABYTE = 1e6


class SystemMetrics:
    """Samples system metrics every few seconds; the tracker polls it after each step, so it needs no thread."""

    def __init__(self, every_seconds: float = 5.0) -> None:
        self._every = every_seconds
        self._process = psutil.Process()
        self._last_sample = time.monotonic()
        # psutil measures the load since the previous call: the first one returns 0.
        psutil.cpu_percent()
        self._process.cpu_percent()
        self._network, self._disk = psutil.net_io_counters(), psutil.disk_io_counters()

    def due(self) -> bool:
        """Return whether it is time for the next sample."""
        return time.monotonic() - self._last_sample >= self._every

    def sample(self) -> dict[str, float]:
        """Return loads in percent, memory and traffic since the start in megabytes, under the names of MLflow's UI."""
        self._last_sample = time.monotonic()
        memory = psutil.virtual_memory()
        metrics = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "process_cpu_utilization_percentage": self._process.cpu_percent(),
            "process_memory_usage_megabytes": self._process.memory_info().rss / MEGABYTE,
            "system_memory_usage_megabytes": memory.used / MEGABYTE,
            "system_memory_usage_percentage": memory.percent,
        }
        network, disk = psutil.net_io_counters(), psutil.disk_io_counters()
        if network and self._network:
            metrics["network_receive_megabytes"] = (network.bytes_recv - self._network.bytes_recv) / MEGABYTE
            metrics["network_transmit_megabytes"] = (network.bytes_sent - self._network.bytes_sent) / MEGABYTE
        if disk and self._disk:
            metrics["disk_read_megabytes"] = (disk.read_bytes - self._disk.read_bytes) / MEGABYTE
            metrics["disk_write_megabytes"] = (disk.write_bytes - self._disk.write_bytes) / MEGABYTE
        return {f"system/{name}": float(value) for name, value in metrics.items()}
