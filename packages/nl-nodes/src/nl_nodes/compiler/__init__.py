"""The compiler: a graph in, a plan of calls on prebuilt memory out."""

from nl_nodes.compiler.plan import Plan, compile_graph
from nl_nodes.compiler.profiler import Row, profile, profile_reference
from nl_nodes.compiler.rewrite import Rule, rewrite
from nl_nodes.compiler.rules import RULES
from nl_nodes.compiler.sources import Sources
from nl_nodes.compiler.workers import Processes, Team, Threads, team

__all__ = [
    "RULES",
    "Plan",
    "Processes",
    "Row",
    "Rule",
    "Sources",
    "Team",
    "Threads",
    "compile_graph",
    "profile",
    "profile_reference",
    "rewrite",
    "team",
]
