"""Addresses of pages in the MLflow UI.

Every link asks for the "model training" view: without it the UI opens on its view for language-model traces.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from shlex import quote as quote_word
from urllib.parse import quote

from nl_training.config.quoting import typed
from nl_training.tracking.address import URI, is_server, resolve_uri

LOCAL_UI = "http://127.0.0.1:5000"
VIEW = "workflowType=machine_learning"


def experiment_link(uri: str, experiment_id: str) -> str:
    """The page with the experiment's runs."""
    return f"{_base(uri)}/#/experiments/{experiment_id}/runs?{VIEW}"


def run_link(uri: str, experiment_id: str, run_id: str) -> str:
    """The run's page."""
    return f"{_base(uri)}/#/experiments/{experiment_id}/runs/{run_id}?{VIEW}"


def compare_link(uri: str, experiment_id: str, run_ids: Sequence[str]) -> str:
    """The page that lays runs side by side."""
    runs, experiments = (quote(json.dumps(ids, separators=(",", ":"))) for ids in (list(run_ids), [experiment_id]))
    return f"{_base(uri)}/#/compare-runs?runs={runs}&experiments={experiments}&{VIEW}"


def view_hint(uri: str, experiment_id: str, run_id: str) -> str:
    """Two or three lines for the end of a run: where it is and how to look at it."""
    return "\n".join([f"run    {run_id} in {uri}", *look_at(uri, run_link(uri, experiment_id, run_id))])


def look_at(uri: str, link: str) -> list[str]:
    """Lines that say how to open a page, with the command that starts the UI where the store is a local one."""
    if is_server(uri):
        return [f"view   {link}"]
    where = "" if uri == resolve_uri() else f"{URI}={quote_word(uri)} "
    return [f"look   {where}python -m nox -s ui, then open", f"       {link}"]


def resume_command(uri: str, run_id: str) -> str:
    """What goes on with a run."""
    where = "" if uri == resolve_uri() else f" {typed('tracking.uri', uri)}"
    return f"python scripts/train.py resume={run_id}{where}"


def _base(uri: str) -> str:
    return uri.rstrip("/") if is_server(uri) else LOCAL_UI
