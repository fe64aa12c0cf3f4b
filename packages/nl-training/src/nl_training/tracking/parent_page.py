"""The page of a parent run in the MLflow UI: its results as a description, and a view of charts of its nested runs.

By default the UI's charts of an experiment show the newest runs of any parent, and a chart for each metric. MLflow
stores a view (Share in its UI) as JSON in a tag of the experiment; this one has the nested runs of one parent, and
starts with a parallel coordinates chart from the params in which they differ to the result.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from nl_training.tracking.links import charts_link, charts_path, run_path
from nl_training.tracking.naming import NOTE, paragraphs, table

if TYPE_CHECKING:
    from mlflow.entities import Run

    from nl_training.tracking.store import Store

VIEW = "mlflow.sharedViewState."  # and the key of the view: the tag of an experiment
SHOWN = 30  # runs in the description, which MLflow limits to 8,000 characters
RESULT = "final/test_acc"
CURVES = ("test/acc", "val/acc", "train/loss")


def log(store: Store, run_id: str, keys: Sequence[str], runs: Sequence[Run], note: str | None) -> str:
    """Describe a parent run by its results, save the view of its charts, and return the URL of that.

    Args:
        store: its store.
        run_id: its ID.
        keys: the keys and groups in which its nested runs may differ.
        runs: its nested runs.
        note: the rest of its description.
    """
    state = json.dumps(view(run_id, axes(keys, runs)), separators=(",", ":"))
    store.client.set_experiment_tag(store.experiment_id, f"{VIEW}{_key(run_id)}", state)
    store.client.set_tag(run_id, NOTE, description(store.experiment_id, run_id, runs, note))
    return charts_link(store.uri, store.experiment_id, _key(run_id))


def description(experiment_id: str, run_id: str, runs: Sequence[Run], note: str | None) -> str:
    """Return the description of a parent run in Markdown: a link to its charts, the note, and its runs, the best first.

    The UI shows the first lines, and the others on request.
    """
    done = [run for run in runs if RESULT in run.data.metrics]
    done.sort(key=lambda run: run.data.metrics[RESULT], reverse=True)
    rows = [
        [f"[{run.info.run_name}]({run_path(experiment_id, run.info.run_id)})", f"{run.data.metrics[RESULT]:.4f}"]
        for run in done[:SHOWN]
    ]
    more = f"and {len(done) - SHOWN} more" if len(done) > SHOWN else None
    link = f"[Charts of all runs]({charts_path(experiment_id, _key(run_id))})"
    return paragraphs(link, note, table(["run", "test accuracy"], rows), more)


def axes(keys: Sequence[str], runs: Sequence[Run]) -> list[str]:
    """Return the params of these keys and groups that all runs have and in which they differ.

    Of a group it is the name alone, if that differs. The UI leaves a run without one of the params out.
    """
    common = set.intersection(*(set(run.data.params) for run in runs))
    differing = sorted(name for name in common if len({run.data.params[name] for run in runs}) > 1)
    return list(dict.fromkeys(name for key in keys for name in _params(key, differing)))


def _key(run_id: str) -> str:
    """Return the key of a run's view, short enough for an address of one line."""
    return run_id[:8]


def _params(key: str, differing: Sequence[str]) -> Iterator[str]:
    own = [name for name in (key, f"{key}.name") if name in differing]
    yield from own or (name for name in differing if name.startswith(f"{key}."))


def view(run_id: str, params: Sequence[str]) -> dict[str, Any]:
    """Return the state of MLflow's runs page that shows the charts of a parent's nested runs."""
    section = f"comparison-{run_id}"
    charts: list[dict[str, Any]] = [{"type": "PARALLEL", "selectedParams": params, "selectedMetrics": [RESULT]}]
    charts += [{"type": "BAR", "metricKey": RESULT}]
    charts += [{"type": "LINE", "metricKey": key, "selectedMetricKeys": [key]} for key in CURVES]
    common = {"metricSectionId": section, "deleted": False, "isGenerated": False}
    title = {"uuid": section, "name": "comparison", "display": True, "isReordered": True, "columns": 2}
    return {
        "searchFilter": f"tags.`mlflow.parentRunId` = '{run_id}'",
        "orderByKey": f"metrics.`{RESULT}`",
        "orderByAsc": False,
        "runsHiddenMode": "SHOW_ALL",
        "isAccordionReordered": True,  # else the UI sorts sections by name
        "compareRunSections": [title],
        "compareRunCharts": [{**chart, **common, "uuid": f"{section}-{i}"} for i, chart in enumerate(charts)],
    }
