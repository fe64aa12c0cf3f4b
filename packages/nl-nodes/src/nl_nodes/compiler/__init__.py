"""The compiler: a graph in, a plan of calls on prebuilt memory out."""

from nl_nodes.compiler.lower.lower import CompileSpec, Update
from nl_nodes.compiler.plan import Plan, compile_graph
from nl_nodes.compiler.profiler import Row, count_costs, profile, profile_reference
from nl_nodes.compiler.rewrite.engine import rewrite
from nl_nodes.compiler.rewrite.pattern import Rule
from nl_nodes.compiler.rewrite.provenance import Provenance
from nl_nodes.compiler.rewrite.rules import RULES
from nl_nodes.runtime import Executor, Processes, Threads, executor

__all__ = [
    "RULES",
    "CompileSpec",
    "Executor",
    "Plan",
    "Processes",
    "Provenance",
    "Row",
    "Rule",
    "Threads",
    "Update",
    "compile_graph",
    "count_costs",
    "executor",
    "profile",
    "profile_reference",
    "rewrite",
]
