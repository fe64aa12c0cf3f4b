"""Which tests judge the mutants of which code: those that know it best, quick ones first."""

from __future__ import annotations

CERTIFICATE = "training/test_strict.py"
LAYERS = ["layers/test_layers.py", "models/test_fused_layers.py", "layers/test_not_finite.py"]
TESTS = {
    "nl_nodes.axes": ["nodes/test_axes.py"],
    "nl_nodes.graph": ["nodes/test_graph.py", "nodes/test_random_graphs.py"],
    "nl_nodes.node": ["nodes/test_graph.py", "models/test_record.py"],
    "nl_nodes.compiler.arena": ["models/test_memory.py"],
    "nl_nodes.compiler.memory": ["models/test_memory.py"],
    "nl_nodes.compiler.plan": ["models/test_plan.py", "models/test_memory.py"],
    "nl_nodes.compiler.record": ["models/test_record.py"],
    "nl_nodes.compiler.rewrite": ["models/test_rewrite.py"],
    "nl_nodes.compiler.rules": ["models/test_fusions.py", "models/test_near_misses.py"],
    "nl_nodes.compiler.trace": ["models/test_trace.py"],
    "nl_nodes.compiler.workers": ["nodes/test_workers.py", CERTIFICATE],
    "nl_nodes.device": ["nodes/test_device.py"],
    "nl_layers": LAYERS,
    "nl_layers.optimizers": ["layers/test_optimizers.py"],
    "nl_layers.schedules": ["layers/test_optimizers.py"],
    "nl_layers.flat": ["layers/test_params.py", "layers/test_optimizers.py"],
    "nl_layers.labels": ["layers/test_labels.py"],
    "nl_models": [
        "models/test_labels.py",
        "models/test_set_weights.py",
        CERTIFICATE,
        "models/test_any_array.py",
        "models/test_not_finite.py",
        "models/test_threads.py",
        "models/test_copies.py",
    ],
    "nl_training": ["training/test_step.py", CERTIFICATE],
    "nl_training.data": ["training/test_data_parts.py", CERTIFICATE],
}
"""Test files by what a module's name begins with; the longest beginning counts."""


def tests_of(target: str) -> list[str]:
    """The test files that judge a function, in the order in which they are asked."""
    module = target.split(":")[0]
    return TESTS[max((begin for begin in TESTS if f"{module}.".startswith(f"{begin}.")), key=len)]
