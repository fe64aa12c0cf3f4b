"""The parent run of a sweep: its jobs are nested runs, and it is closed however they end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from nl_nodes import UserError
from nl_training.config.sweep_jobs import key_of, swept
from nl_training.tracking import parent_page, parent_run, provenance, seeds, sweep_plots
from nl_training.tracking.address import given_experiment_name
from nl_training.tracking.links import open_hint
from nl_training.tracking.naming import NOTE, SWEPT, joined, user_tags
from nl_training.tracking.process import PROCESS, this_process
from nl_training.tracking.store import Store
from nl_training.tracking.sweep_table import print_jobs
from nl_training.training.progress_bar import activity

if TYPE_CHECKING:
    from mlflow.entities import Run, RunInfo

    from nl_training.config.schema import Config

SWEEP = "sweep"  # the tag of a sweep's run
FAILURES = "failures.txt"
# The best job is chosen by validation accuracy: chosen by test accuracy, its test accuracy would be biased.
CHOICE = "best/val_acc"
FIGURES = {"validation accuracy": CHOICE, "test accuracy": "final/test_acc", "test loss": "final/test_loss"}


@contextmanager
def sweep_run(config: Config, overrides: list[str]) -> Iterator[Mapping[str, str]]:
    """Open a sweep's parent run, and close it with a summary of its jobs.

    Args:
        config: the first job's config; `sweep.resume` names the sweep to resume.
        overrides: the sweep's command line.

    Yields:
        The environment variables that its jobs need.
    """
    if not config.tracking.enabled:
        if config.sweep.resume is not None:
            raise UserError("sweep.resume needs tracking=mlflow, which knows the finished jobs")
        yield {}
        return
    given = [text for text in overrides if not text.startswith("sweep.resume=")]
    keys = [key_of(text) for text in swept(given)]
    if "experiment" in keys:  # the sweep is of none in particular
        config = replace(config, experiment=None)
    with activity("opening the tracking store"):
        store = Store.of(config.tracking, config.experiment)
    found = None
    if config.sweep.resume is not None:
        found = parent_run.find(store, SWEEP, str(config.sweep.resume), [store.experiment_id])
        given_name = given_experiment_name(config.tracking.experiment_name)
        store.refuse_other_experiment(found, given_name, f"sweep.resume={config.sweep.resume}")
        store = store.of_run(found)
    name = config.tracking.name or joined(["sweep", *swept(given)])
    begin = partial(_begin, store, config, " ".join(given), name, found)
    with parent_run.opened(store, SWEEP, begin, partial(_sum_up, store, config, name, keys)) as run:
        yield {**parent_run.environment(store, run.run_id), SWEPT: ",".join(keys)}


def _begin(store: Store, config: Config, given: str, name: str, found: Run | None) -> RunInfo:
    """Create a sweep's run, or return that of the sweep to resume."""
    if found is None:
        tags = {**user_tags(config), **provenance.tags(), SWEEP: joined([given]), PROCESS: this_process()}
        info = store.client.create_run(store.experiment_id, tags=tags, run_name=joined([name])).info
        provenance.log_params(store.client, info.run_id, {"sweep": given})
    else:
        info = found.info
    print(f"sweep  {info.run_id}", flush=True)
    return info


def _sum_up(
    store: Store, config: Config, name: str, keys: Sequence[str], info: RunInfo, error: BaseException | None
) -> str:
    """Log the comparison of all jobs to the sweep's run; return the status that they give it."""
    run_id = info.run_id
    children = parent_run.children(store, run_id)
    failures = _failures(children, error)
    finished = sum(child.info.status == "FINISHED" for child in children)
    unfinished = _unfinished(children)
    ended = f"{len(failures)} failed" + (f", {unfinished} unfinished" if unfinished else "")
    store.client.set_tag(run_id, "jobs", f"{finished} finished, {ended}")
    if failures or store.text(run_id, FAILURES):  # a resumed sweep may have some no more
        store.client.log_text(run_id, "\n".join(failures), FAILURES)
    print(f"\nsweep  {run_id}: {max(len(children), finished + len(failures))} jobs, {ended}")
    if children:
        _compare(store, run_id, name, children)
        charts = parent_page.log(store, run_id, keys, children, user_tags(config).get(NOTE))
        print("\n".join(open_hint(store.uri, charts)))
    if failures:
        return "FAILED"
    return "KILLED" if unfinished else "FINISHED"


def _unfinished(children: Sequence[Run]) -> int:
    """Return the number of stopped jobs, without those that another commit's run of the same name has finished."""
    finished = {child.info.run_name for child in children if child.info.status == "FINISHED"}
    return sum(child.info.status == "KILLED" and child.info.run_name not in finished for child in children)


def _failures(children: Sequence[Run], error: BaseException | None) -> list[str]:
    """Return a line per failed job; the sweep's own error also includes those that failed before their run began."""
    if isinstance(error, UserError):
        return str(error).replace("\nerror: ", "\n").splitlines()
    return [str(child.info.run_name) for child in children if child.info.status == "FAILED"]


def _compare(store: Store, run_id: str, name: str, children: Sequence[Run]) -> None:
    """Log a chart and a table of all jobs, and the best job's metrics as the sweep's."""
    client = store.client
    labels = [f"{number}: {child.info.run_name}" for number, child in enumerate(children, 1)]
    columns = {title: [child.data.metrics.get(key) for child in children] for title, key in FIGURES.items()}
    shown = [_child(store, child, label) for child, label in zip(children, labels, strict=True)]
    client.log_figure(run_id, sweep_plots.comparison(shown, name), "comparison.png")
    table = {
        "job": labels,
        "run": [child.info.run_id for child in children],
        "status": [child.info.status for child in children],
        **columns,
    }
    client.log_table(run_id, table, "comparison.json")
    candidates = [
        i for i, child in enumerate(children) if child.info.status == "FINISHED" and CHOICE in child.data.metrics
    ]
    if not candidates:
        print("no job has a validation accuracy, so there is no best one: see data.validation")
        return
    best = max(candidates, key=lambda i: children[i].data.metrics[CHOICE])
    client.set_tag(run_id, "best.job", labels[best])
    parent_run.tag_best(client, run_id, children[best])
    finished = [i for i, child in enumerate(children) if child.info.status == "FINISHED"]
    print_jobs([labels[i] for i in finished], [children[i] for i in finished], FIGURES, CHOICE)
    if settings := seeds.settings(children):
        client.log_table(run_id, seeds.table(settings), "seeds.json")
        client.log_figure(run_id, sweep_plots.seeds(settings, name), "seeds.png")
        print("\n".join(seeds.lines(settings)))


def _child(store: Store, run: Run, label: str) -> sweep_plots.Child:
    history = store.client.get_metric_history(run.info.run_id, "test/acc")
    curve = tuple((metric.step, metric.value) for metric in history)
    return sweep_plots.Child(label, run.info.status, run.data.metrics.get("final/test_acc"), curve)
