"""CUDA kernels from a tape: runs of calls become fused kernels; large matrix products stay calls."""
