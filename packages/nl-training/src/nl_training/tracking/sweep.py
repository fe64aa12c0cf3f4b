"""A sweep's parent run: its jobs nest under it, and it is closed however they end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from nl_training.tracking import provenance
from nl_training.tracking.interrupts import Interrupts, status_of
from nl_training.tracking.links import compare_link, look_at
from nl_training.tracking.run import PARENT
from nl_training.tracking.store import Store, resolve_uri

if TYPE_CHECKING:
    from mlflow.entities import Run

    from nl_training.config.schema import Config

ACCURACY = "final/test_acc"


@contextmanager
def parent(config: Config, overrides: list[str]) -> Iterator[None]:
    """Hold a sweep together: open the parent run, and close it with what its jobs reached.

    Args:
        config: the first job's.
        overrides: the sweep's command line.
    """
    if not config.tracking.enabled:
        yield
        return
    store = Store.open(resolve_uri(config.tracking.uri), config.tracking.experiment_name)
    name = " ".join(o for o in overrides if "," in o) or "sweep"
    run = store.client.create_run(store.experiment_id, tags=provenance.tags(), run_name=f"sweep {name}")
    run_id = run.info.run_id
    os.environ[PARENT] = run_id
    error: BaseException | None = None
    try:
        with Interrupts():
            store.client.log_param(run_id, "sweep", " ".join(overrides))
            yield
    except BaseException as raised:
        error = raised
        raise
    finally:
        del os.environ[PARENT]
        _close(store, run_id, name, error)


def _close(store: Store, run_id: str, name: str, error: BaseException | None) -> None:
    """Compare the children on the parent and end it: FAILED when one of them did."""
    children = _children(store, run_id)
    failed = [child for child in children if child.info.status != "FINISHED"]
    figures = {_label(child, i): child.data.metrics.get(ACCURACY) for i, child in enumerate(children)}
    store.client.set_tag(run_id, "jobs", f"{len(children) - len(failed)} finished, {len(failed)} failed")
    if children:
        _compare(store, run_id, name, children, figures)
    status = status_of(error) if error is not None else "FAILED" if failed else "FINISHED"
    store.client.set_terminated(run_id, status)
    print(f"\nsweep  {run_id}: {len(children)} jobs, {len(failed)} failed")
    link = compare_link(store.uri, store.experiment_id, [child.info.run_id for child in children])
    print("\n".join(look_at(store.uri, link)))


def _children(store: Store, run_id: str) -> list[Run]:
    found = store.client.search_runs(
        [store.experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}'", order_by=["attributes.start_time ASC"]
    )
    return list(found)


def _label(child: Run, number: int) -> str:
    return f"{number}: {child.info.run_name}"


def _compare(store: Store, run_id: str, name: str, children: list[Run], figures: dict[str, float | None]) -> None:
    from nl_training import plots

    store.client.log_figure(run_id, plots.comparison(figures, f"sweep {name}"), "comparison.png")
    table = {
        "job": list(figures),
        "run": [child.info.run_id for child in children],
        "status": [child.info.status for child in children],
        "test accuracy": list(figures.values()),
    }
    store.client.log_table(run_id, table, "comparison.json")
    reached = {label: value for label, value in figures.items() if value is not None}
    if reached:
        best = max(reached, key=lambda label: reached[label])
        store.client.log_metric(run_id, "best/test_acc", reached[best])
        store.client.set_tag(run_id, "best.job", best)
