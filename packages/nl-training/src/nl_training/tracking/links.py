"""URLs of pages in the MLflow UI.

Every URL selects the "model training" view: by default the UI shows its view of language-model traces.
"""

from __future__ import annotations

from shlex import quote as quote_word

from nl_training.config.quoting import shell_override
from nl_training.paths import program
from nl_training.tracking.address import URI, is_server, resolve_uri

PORT = 5000  # of the UI on this machine, if it is free
VIEW = "workflowType=machine_learning"


def experiment_link(uri: str, experiment_id: str, port: int = PORT) -> str:
    """Return the URL of an experiment's list of runs, on this port of this machine unless the store is a server."""
    return f"{_base(uri, port)}/#/experiments/{experiment_id}/runs?{VIEW}"


def run_link(uri: str, experiment_id: str, run_id: str) -> str:
    """Return the URL of a run's page."""
    return f"{_base(uri)}/{run_path(experiment_id, run_id)}"


def run_path(experiment_id: str, run_id: str) -> str:
    """Return the path of a run's page from any page of the UI."""
    return f"#/experiments/{experiment_id}/runs/{run_id}?{VIEW}"


def charts_link(uri: str, experiment_id: str, view: str) -> str:
    """Return the URL of a saved view of an experiment's charts."""
    return f"{_base(uri)}/{charts_path(experiment_id, view)}"


def charts_path(experiment_id: str, view: str) -> str:
    """Return the path of a saved view of an experiment's charts from any page of the UI."""
    return f"#/experiments/{experiment_id}/runs?compareRunsMode=CHART&viewStateShareKey={view}&{VIEW}"


def view_hint(uri: str, experiment_id: str, run_id: str) -> str:
    """Return two or three lines that say where a run is and how to view it."""
    return "\n".join([f"run    {run_id} in {uri}", *open_hint(uri, run_link(uri, experiment_id, run_id))])


def open_hint(uri: str, link: str) -> list[str]:
    """Return lines that say how to open a page; for a local store, with the command that starts the UI."""
    if is_server(uri):
        return [f"view   {link}"]
    where = "" if uri == resolve_uri() else f"{URI}={quote_word(uri)} "
    return [f"look   {where}{program()} ui, then open", f"       {link}"]


def resume_command(uri: str, run_id: str) -> str:
    """Return the command that resumes a run."""
    where = "" if uri == resolve_uri() else f" {shell_override('tracking.uri', uri)}"
    return f"{program()} train resume={run_id}{where}"


def _base(uri: str, port: int = PORT) -> str:
    return uri.rstrip("/") if is_server(uri) else f"http://127.0.0.1:{port}"
