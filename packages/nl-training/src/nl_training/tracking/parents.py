"""The runs that hold others, a sweep's or a search's: found, held open, and the runs that nest under them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from nl_nodes import UserError
from nl_training.tracking.interrupts import Interrupts
from nl_training.tracking.process import PROCESS, is_alive, this_process

PARENT = "NL_PARENT_RUN_ID"

if TYPE_CHECKING:
    from mlflow.entities import Run

    from nl_training.tracking.store import Store


def find(store: Store, kind: str, wanted: str) -> Run:
    """The sweep or search to go on with.

    Args:
        store: where it is looked for, in its experiment.
        kind: "sweep" or "search", the tag that such a run bears.
        wanted: its ID, or "latest": the newest that did not finish and whose process is gone.

    Raises:
        UserError: where there is none, or its process is still at it.
    """
    option = f"{kind}.resume={wanted}"
    if wanted == "latest":
        left = [run for run in _all(store, kind) if run.info.status != "FINISHED" and not is_alive(_process(run))]
        if not left:
            raise UserError(f"{option}: no {kind} is left unfinished in {store.uri}")
        return left[0]
    run = _by_id(store, wanted)
    if run is None:
        raise UserError(f"{option} is not in {store.uri}: take the ID of a {kind}, or latest")
    if kind not in run.data.tags:
        raise UserError(f"{option} is no {kind}: take the ID of one, or latest")
    if run.info.status == "RUNNING" and is_alive(_process(run)):
        raise UserError(f"{option}: its process {_process(run).split()[-2]} is at it; stop that first")
    return run


@contextmanager
def opened(store: Store, run_id: str, close: Callable[[BaseException | None], None]) -> Iterator[dict[str, str]]:
    """Hold such a run open while others nest under it; `close` ends it with what they came to.

    Yields:
        The environment variables by which runs in other processes find it.
    """
    with Interrupts() as interrupts:
        interrupts.hold()
        store.client.set_tag(run_id, PROCESS, this_process())
        store.client.update_run(run_id, status="RUNNING")
        end_killed(store, run_id)
        os.environ[PARENT] = run_id
        error: BaseException | None = None
        try:
            interrupts.release()
            yield {PARENT: run_id, "MLFLOW_TRACKING_URI": store.uri}
        except BaseException as raised:
            error = interrupts.asked() or raised
            if error is raised:
                raise
            raise error from None  # Ray puts an exit with code 1 in place of what a signal raised
        finally:
            interrupts.hold()
            del os.environ[PARENT]
            close(error)


def children(store: Store, run_id: str, **tags: str) -> list[Run]:
    """The runs that nest under it, in the order of their start; those alone that bear the given tags."""
    wanted = {"mlflow.parentRunId": run_id, **tags}
    terms = " AND ".join(f"tags.`{key}` = '{value}'" for key, value in wanted.items())
    return list(store.client.search_runs([store.experiment_id], terms, order_by=["attributes.start_time ASC"]))


def end_killed(store: Store, run_id: str) -> None:
    """End what a process that was killed left running."""
    for child in children(store, run_id):
        if child.info.status == "RUNNING":
            store.client.set_terminated(child.info.run_id, "KILLED")


def _all(store: Store, kind: str) -> list[Run]:
    """The newest first."""
    order = ["attributes.start_time DESC"]
    return list(store.client.search_runs([store.experiment_id], f"tags.{kind} LIKE '%'", order_by=order))


def _by_id(store: Store, run_id: str) -> Run | None:
    from mlflow.exceptions import MlflowException

    try:
        run = store.client.get_run(run_id)
    except MlflowException:
        return None
    return None if run.info.lifecycle_stage == "deleted" else run


def _process(run: Run) -> str:
    return str(run.data.tags[PROCESS])
