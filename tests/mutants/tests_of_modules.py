"""The test files to run on the mutants of each module, fast ones first."""

from __future__ import annotations

CERTIFICATE = "unit/training/test_strict.py"
BARRIERS, ON_GPU, STEP_ON_GPU = "unit/models/test_barriers.py", "unit/cuda/test_card.py", "unit/cuda/test_enqueue.py"
LAYERS = ["unit/layers/test_layers.py", "unit/models/test_fused_layers.py", "unit/layers/test_not_finite.py"]
TESTS = {
    "nl_nodes.shapes": ["unit/nodes/test_shapes.py"],
    "nl_nodes.graph": ["unit/nodes/test_graph.py", "unit/nodes/test_random_graphs.py"],
    "nl_nodes.context": ["unit/nodes/test_graph.py", "unit/compiler/test_lower.py"],
    "nl_nodes.node": ["unit/nodes/test_graph.py", "unit/compiler/test_lower.py"],
    "nl_nodes.compiler.lower.arena": ["unit/compiler/test_memory.py", ON_GPU],
    "nl_nodes.compiler.lower.memory": ["unit/compiler/test_memory.py", BARRIERS, ON_GPU],
    "nl_nodes.compiler.plan": ["unit/compiler/test_plan.py", "unit/compiler/test_memory.py", ON_GPU, STEP_ON_GPU],
    "nl_nodes.compiler.lower.lower": ["unit/compiler/test_lower.py", "unit/compiler/test_users_nodes.py"],
    "nl_nodes.compiler.lower.traced_worker": ["unit/compiler/test_lower.py", "unit/compiler/test_users_nodes.py"],
    "nl_nodes.compiler.rewrite.engine": ["unit/compiler/test_rewrite.py"],
    "nl_nodes.compiler.rewrite.pattern": ["unit/compiler/test_pattern.py", "unit/compiler/test_rewrite.py"],
    "nl_nodes.compiler.rewrite.rules": [
        "unit/models/test_fusions.py",
        "unit/models/test_near_misses.py",
        "unit/models/test_rules.py",
    ],
    "nl_nodes.compiler.lower.trace": ["unit/compiler/test_trace.py", "unit/compiler/test_users_nodes.py"],
    "nl_nodes.runtime": [
        "unit/runtime/test_protocol.py",
        "unit/runtime/test_shared_memory.py",
        "unit/runtime/test_workers.py",
        CERTIFICATE,
    ],
    "nl_nodes.runtime.executor": [
        "unit/compiler/test_memory.py",
        "unit/compiler/test_panels.py",
        "unit/runtime/test_workers.py",
        CERTIFICATE,
    ],
    "nl_nodes.runtime.cut": ["unit/runtime/test_cut.py"],
    "nl_nodes.arguments": ["unit/layers/test_optimizers.py"],
    "nl_nodes.operators": ["unit/nodes/test_operators.py"],
    "nl_nodes.philox": ["unit/nodes/test_device.py"],
    "nl_nodes.curvature.products": ["unit/nodes/test_curvature.py"],
    "nl_nodes.curvature.spectrum": ["unit/nodes/test_spectrum.py"],
    "nl_nodes.device": ["unit/nodes/test_device.py", "unit/models/test_own_layers.py", ON_GPU],
    "nl_layers": LAYERS,
    "nl_layers.containers": ["unit/layers/test_containers.py"],
    "nl_layers.losses": [*LAYERS, "unit/models/test_label_smoothing.py"],
    "nl_layers.module": [
        *LAYERS,
        "unit/layers/test_containers.py",
        "unit/models/test_network_parts.py",
        "unit/models/test_own_layers.py",
    ],
    "nl_layers.pooling": [*LAYERS, "unit/layers/test_containers.py"],
    "nl_layers.optimizers": ["unit/layers/test_optimizers.py", "unit/layers/test_published_steps.py"],
    "nl_layers.schedules": ["unit/layers/test_schedules.py"],
    "nl_layers.flat": [
        "unit/layers/test_params.py",
        "unit/layers/test_optimizers.py",
        "unit/layers/test_published_steps.py",
    ],
    "nl_layers.labels": ["unit/layers/test_labels.py"],
    "nl_models": [
        "unit/models/test_network_parts.py",
        "unit/models/test_labels.py",
        "unit/models/test_set_weights.py",
        "unit/models/test_own_layers.py",
        CERTIFICATE,
        "unit/models/test_any_array.py",
        "unit/models/test_not_finite.py",
        "unit/models/test_threads.py",
        "unit/models/test_copies.py",
        ON_GPU,
    ],
    "nl_models.wiring": [
        "unit/models/test_network_parts.py",
        "unit/models/test_sequential.py",
        "unit/models/test_own_layers.py",
    ],
    "nl_models.names": ["unit/models/test_names.py", "unit/models/test_resnet.py", "unit/models/test_sequential.py"],
    "nl_models.ownership": [
        "unit/models/test_sequential.py",
        "unit/models/test_own_layers.py",
        "unit/models/test_set_weights.py",
    ],
    "nl_models.stack": ["unit/models/test_sequential.py", "unit/models/test_resnet.py"],
    "nl_models.resnet": ["unit/models/test_resnet.py"],
    "nl_models.recent": ["unit/models/test_recent.py"],
    "nl_training": ["unit/training/test_step.py", CERTIFICATE, "unit/cuda/test_training.py"],
    "nl_training.training": [
        "unit/training/test_step.py",
        "unit/training/test_regularization.py",
        CERTIFICATE,
        "unit/cuda/test_training.py",
    ],
    "nl_training.training.trainer": [
        "unit/training/test_step.py",
        "unit/training/test_regularization.py",
        CERTIFICATE,
        "unit/cuda/test_training.py",
        "unit/training/test_trainer.py",
    ],
    "nl_training.data": ["unit/training/test_data_parts.py", CERTIFICATE],
}
"""Test files by prefix of a module's name; the longest matching prefix is used."""


def tests_of(target: str) -> list[str]:
    """Return the test files for a function's mutants, in the order to run them."""
    module = target.split(":")[0]
    return TESTS[max((prefix for prefix in TESTS if f"{module}.".startswith(f"{prefix}.")), key=len)]
