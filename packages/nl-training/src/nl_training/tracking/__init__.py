"""Tracking with MLflow: the store, runs, their models, and the parent runs of sweeps and searches.

Importing MLflow takes a second, so it is imported only when a store is opened.
"""

from nl_training.tracking.address import resolve_uri
from nl_training.tracking.links import resume_command, run_link, view_hint
from nl_training.tracking.run import MLflowTracker
from nl_training.tracking.store import Store

__all__ = ["MLflowTracker", "Store", "resolve_uri", "resume_command", "run_link", "view_hint"]
