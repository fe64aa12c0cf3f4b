"""Lowering: from a graph to each worker's calls on planned memory."""
