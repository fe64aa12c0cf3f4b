"""The executor of a GPU: kernels and matrix products of a plan, captured into one CUDA graph."""

from nl_nodes.runtime.cuda.card import Card, OutOfMemory, Refused
from nl_nodes.runtime.cuda.executor import CudaExecutor

__all__ = ["Card", "CudaExecutor", "OutOfMemory", "Refused"]
