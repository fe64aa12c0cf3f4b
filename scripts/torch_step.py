"""PyTorch's forward and backward pass of a network on any device: its time, memory and number of kernels."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch_peer import peer

from nl_models import Network

LAYOUTS = ("contiguous", "channels_last")
EAGER = "eager"
MODES = (EAGER, "reduce-overhead", "max-autotune")
"""How PyTorch runs: as it is, or compiled; both compiled modes use CUDA graphs."""

WARM_UP, STEPS, REPEATS = 5, 10, 5


@dataclass(frozen=True)
class Setting:
    """How PyTorch runs a pass.

    Attributes:
        layout: of `LAYOUTS`.
        tf32: whether products and convolutions may round their factors to TF32.
        mode: of `MODES`.
    """

    layout: str
    tf32: bool
    mode: str = EAGER

    def __str__(self) -> str:
        return f"{self.mode}, {self.layout}{', TF32' if self.tf32 else ''}"


def measure(net: Network, x: Any, t: Any, setting: Setting, device: str = "cuda") -> dict[str, float | None]:
    """Return the milliseconds of a pass, the memory that it reserves in MB, and its number of kernels.

    Memory and kernels are None on a CPU.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = setting.tf32
    on_gpu = device == "cuda"
    if on_gpu:
        gc.collect()  # what an earlier setting left
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    run = training_pass(net, x, t, setting, device)
    for _ in range(WARM_UP):
        run()
    milliseconds = median(_seconds(run, on_gpu) for _ in range(REPEATS)) * 1e3
    memory = torch.cuda.max_memory_reserved() / 1e6 if on_gpu else None
    return {"ms": milliseconds, "MB": memory, "kernels": _kernels(run) if on_gpu else None}


def training_pass(net: Network, x: Any, t: Any, setting: Setting, device: str) -> Callable[[], Any]:
    """Return a function that runs a pass on images and labels that are on the device, and returns the loss."""
    module = peer(net, "channels_last" if setting.layout == "channels_last" else "NCHW").to(device)
    memory = torch.channels_last if setting.layout == "channels_last" else torch.contiguous_format
    images = torch.from_numpy(x).to(device).to(memory_format=memory)
    labels = torch.from_numpy(t).to(device)

    def forward(images: Any, labels: Any) -> Any:
        return torch.nn.functional.cross_entropy(module(images), labels)

    torch.compiler.reset()
    loss_of = forward if setting.mode == EAGER else torch.compile(forward, mode=setting.mode)

    def run() -> Any:
        module.zero_grad(set_to_none=True)
        loss = loss_of(images, labels)
        loss.backward()
        return loss.detach()

    return run


def _seconds(run: Callable[[], Any], on_gpu: bool) -> float:
    begun = time.perf_counter()
    for _ in range(STEPS):
        run()
    if on_gpu:
        torch.cuda.synchronize()
    return (time.perf_counter() - begun) / STEPS


def _kernels(run: Callable[[], Any]) -> int:
    """Return how many kernels, copies and fills a pass runs on the GPU."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        run()
        torch.cuda.synchronize()
    return sum(event.device_type == torch.autograd.DeviceType.CUDA for event in profiler.events())
