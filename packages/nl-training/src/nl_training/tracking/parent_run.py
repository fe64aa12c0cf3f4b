"""Parent runs of sweeps and searches: found, kept open while runs nest under them, and closed with a summary."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TypeVar

from nl_nodes import UserError
from nl_training.interrupts import Interrupts, status_of
from nl_training.paths import OUTPUT, output_root
from nl_training.tracking.address import EXPERIMENT_NAME, URI
from nl_training.tracking.process import PROCESS, is_alive, this_process
from nl_training.tracking.remainder import make_postponed

PARENT = "NL_PARENT_RUN_ID"
# The tags with the best nested run's results, and the metrics that they are taken from.
RESULTS = {"best.val_acc": "best/val_acc", "best.test_acc": "final/test_acc", "best.test_loss": "final/test_loss"}

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from nl_training.tracking.store import Store


class OpenRun(Protocol):
    """An open parent run."""

    @property
    def run_id(self) -> str:
        """Its ID."""


Opened = TypeVar("Opened", bound=OpenRun)
SumUp = Callable[[Opened, BaseException | None], str]
"""Sums up the children of a parent run that ends, in an error or not; returns the MLflow status that they give it."""


def find(store: Store, kind: str, wanted: str, experiments: Sequence[str]) -> Run:
    """Return the run of a sweep or search to resume.

    Args:
        store: the store to search.
        kind: "sweep" or "search", the tag of such a run.
        experiments: the IDs of the experiments in which "latest" looks.
        wanted: its ID, or "latest" for the newest unfinished one that has runs and whose process is gone.

    Raises:
        UserError: if there is none, or its process is still running.
    """
    option = f"{kind}.resume={wanted}"
    if wanted == "latest":
        for run in _all(store, kind, experiments):
            unfinished = run.info.status != "FINISHED" and not is_alive(_process(run))
            if unfinished and children(store.of_run(run), run.info.run_id):  # without any there is nothing to resume
                return run
        raise UserError(f"{option}: {store.uri} has no unfinished {kind}")
    found = store.run(wanted)
    if found is None:
        raise UserError(f"{option} is not in {store.uri}: take the ID of a {kind}, or latest")
    if kind not in found.data.tags:
        raise UserError(f"{option} is not a {kind}: take the ID of one, or latest")
    if found.info.status == "RUNNING" and is_alive(_process(found)):
        raise UserError(f"{option}: its process {_process(found).split()[-2]} is running it; stop that first")
    return found


@contextmanager
def opened(store: Store, kind: str, begin: Callable[[], Opened], sum_up: SumUp[Opened]) -> Iterator[Opened]:
    """Keep a parent run open while others nest under it, and close it however they end.

    Args:
        store: the run's store.
        kind: "sweep" or "search".
        begin: creates or finds the run. Signals are deferred meanwhile, so that the run is always closed.
        sum_up: logs a summary, given the run and the error that ended it; returns the run's status without an error.

    Raises:
        UserError: if the run could not be summed up, or postponed pictures or models could not be made.
    """
    with Interrupts() as interrupts:
        interrupts.hold()
        parent = begin()
        store.client.set_tag(parent.run_id, PROCESS, this_process())
        store.client.update_run(parent.run_id, status="RUNNING")
        _end_killed(store, parent.run_id)
        outer = os.environ.get(EXPERIMENT_NAME)
        # MLflow shows nested runs only in their parent's experiment.
        os.environ.update({PARENT: parent.run_id, EXPERIMENT_NAME: store.experiment_name})
        error: BaseException | None = None
        try:
            interrupts.release()
            yield parent
        except BaseException as raised:
            error = interrupts.take_pending() or raised
            if error is raised:
                raise
            raise error from None  # Ray replaces the exception of a signal by an exit with code 1
        finally:
            interrupts.hold()
            del os.environ[PARENT], os.environ[EXPERIMENT_NAME]
            if outer is not None:
                os.environ[EXPERIMENT_NAME] = outer
            _close(store, kind, parent, error, sum_up)


def _close(store: Store, kind: str, parent: Opened, error: BaseException | None, sum_up: SumUp[Opened]) -> None:
    """Log the summary and end the run, without hiding the error that ended it.

    A run that failed before any run nested under it is deleted: a refused command line leaves nothing behind.
    """
    status, is_empty = status_of(error), False
    lost: list[str] = []
    try:
        _end_killed(store, parent.run_id)  # jobs may have been killed
        nested = children(store, parent.run_id)
        is_empty = error is not None and not nested
        note = f" (Ctrl-C leaves the rest to {kind}.resume={parent.run_id})" if status == "KILLED" else ""
        lost = make_postponed(store, nested, note)
        if not is_empty:
            of_children = sum_up(parent, error)
            if error is None:
                status = "FAILED" if lost else of_children
    except Exception as failure:
        if error is None:
            status = "FAILED"
            why = str(failure).splitlines()[0]
            raise UserError(f"the {kind} {parent.run_id} could not be summed up: {why}") from failure
    finally:
        store.client.set_terminated(parent.run_id, status)
        if is_empty:
            store.client.delete_run(parent.run_id)
    if lost:
        message = "\nerror: ".join(f"{line}; {kind}.resume={parent.run_id} tries again" for line in lost)
        if error is None:
            raise UserError(message)
        print(f"error: {message}", file=sys.stderr)


def environment(store: Store, run_id: str) -> dict[str, str]:
    """Return the environment variables with which runs in other processes find their parent run."""
    return {PARENT: run_id, URI: store.uri, EXPERIMENT_NAME: store.experiment_name, OUTPUT: str(output_root())}


def runs_in_this_process(store: Store) -> bool:
    """Return whether new runs nest under a parent run that this process keeps open."""
    parent = store.run(os.environ.get(PARENT, ""))
    return parent is not None and _process(parent) == this_process()


def children(store: Store, run_id: str, **tags: str) -> list[Run]:
    """Return the runs nested under a run that have the given tags, in the order of their start."""
    required = {"mlflow.parentRunId": run_id, **tags}
    terms = " AND ".join(f"tags.`{key}` = '{value}'" for key, value in required.items())
    return list(store.client.search_runs([store.experiment_id], terms, order_by=["attributes.start_time ASC"]))


def tag_best(client: MlflowClient, run_id: str, best: Run) -> None:
    """Set the tags of a parent run that name its best nested run and give its results.

    As metrics, they would be one more run in the charts that compare the nested ones.
    """
    client.set_tag(run_id, "best.run", best.info.run_id)
    for tag, metric in RESULTS.items():
        if metric in best.data.metrics:
            client.set_tag(run_id, tag, f"{best.data.metrics[metric]:.4f}")


def _end_killed(store: Store, run_id: str) -> None:
    """Set the nested runs of killed processes to KILLED."""
    for child in children(store, run_id):
        if child.info.status == "RUNNING":
            store.client.set_terminated(child.info.run_id, "KILLED")


def _all(store: Store, kind: str, experiments: Sequence[str]) -> list[Run]:
    """Return all runs of this kind, the newest first."""
    order = ["attributes.start_time DESC"]
    return list(store.client.search_runs(list(experiments), f"tags.{kind} LIKE '%'", order_by=order))


def _process(run: Run) -> str:
    return str(run.data.tags[PROCESS])
