"""Tracking with MLflow: a store, one run, its model, and a sweep's parent run.

MLflow takes a second to import, so nothing here imports it before a run opens.
"""

from nl_training.tracking.address import resolve_uri
from nl_training.tracking.links import compare_link, resume_command, run_link, view_hint
from nl_training.tracking.run import MLflowTracker
from nl_training.tracking.store import Store

__all__ = ["MLflowTracker", "Store", "compare_link", "resolve_uri", "resume_command", "run_link", "view_hint"]
