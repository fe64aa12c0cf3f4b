"""The registered layers and losses, and their cases."""

import nl_layers  # noqa: F401  (registers them)
from nl_layers.module import Module
from support.node_cases import cases_of

LAYERS = {name: layer for name, layer in sorted(Module.registry.items()) if layer.__module__.startswith("nl_layers.")}
LAYER_CASES = cases_of(LAYERS)
