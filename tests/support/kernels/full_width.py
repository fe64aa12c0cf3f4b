"""The kernels of the models at full width and batch 128, and how many launches and bytes they may take."""

from __future__ import annotations

from typing import Any

from nl_models import build
from nl_nodes import Device
from nl_nodes.compiler import RULES, CompileSpec, rewrite
from nl_nodes.compiler.cuda.check import Counts, count
from nl_nodes.compiler.cuda.kernels import Kernel
from nl_nodes.compiler.cuda.memory import group
from nl_nodes.compiler.cuda.values import Program
from nl_nodes.compiler.lower.lower import Lowering
from nl_nodes.compiler.plan import lower

BATCH = 128
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in ("mlp", "cnn3", "cnn8", "vgg11", "vgg16")},
    **{f"{name}, batch norm": (name, {"batch_norm": True}) for name in ("cnn8", "vgg16")},
}
MEGABYTES = 10**6
# Two percent above what was found in 2026-11.
LIMITS = {
    "mlp": Counts(26, 14, 1.08 * MEGABYTES),
    "cnn3": Counts(24, 8, 64 * MEGABYTES),
    "cnn8": Counts(80, 23, 325 * MEGABYTES),
    "vgg11": Counts(118, 32, 1116 * MEGABYTES),
    "vgg16": Counts(180, 47, 2326 * MEGABYTES),
    "cnn8, batch norm": Counts(103, 23, 454 * MEGABYTES),
    "vgg16, batch norm": Counts(214, 47, 2918 * MEGABYTES),
}


def lowered(form: str, dtype: str = "float32") -> Lowering:
    """Return forward, loss and backward, lowered for one worker and the whole batch at once."""
    name, options = FORMS[form]
    net = build(name, device=Device(dtype=dtype, threads=1), **options)
    feeds = {"x": ((BATCH, *net.input_shape), net.device.dtype), "t": ((BATCH,), "int64")}
    spec = CompileSpec(feeds, frozenset(feeds), net._grads)
    return lower(rewrite(net.wire(BATCH, True), RULES), spec, 1, chunked=False)


def kernels_of(form: str) -> tuple[Program, list[Kernel]]:
    """Return the program of a model's step, and its kernels."""
    program = Program(lowered(form))
    return program, group(program)


def counts(form: str) -> Counts:
    """Return launches, matrix products and bytes of a model's step."""
    return count(*kernels_of(form))
