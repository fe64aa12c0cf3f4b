"""Tracking with MLflow: a store, one run, its model, and a sweep's parent run.

MLflow takes a second to import, so nothing here imports it before a run opens.
"""

from nl_training.tracking.links import compare_link, run_link, view_hint
from nl_training.tracking.run import MLflowTracker
from nl_training.tracking.store import Store, resolve_uri

__all__ = ["MLflowTracker", "Store", "compare_link", "resolve_uri", "run_link", "view_hint"]
