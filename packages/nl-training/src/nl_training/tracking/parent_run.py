"""The runs that hold others, a sweep's or a search's: found, held open, and the runs that nest under them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TypeVar

from nl_nodes import UserError
from nl_training.config.quoting import typed
from nl_training.paths import OUTPUT, output_root
from nl_training.tracking.address import EXPERIMENT_NAME, URI
from nl_training.tracking.interrupts import Interrupts, status_of
from nl_training.tracking.process import PROCESS, is_alive, this_process

PARENT = "NL_PARENT_RUN_ID"

if TYPE_CHECKING:
    from mlflow.entities import Run

    from nl_training.tracking.store import Store


class Begun(Protocol):
    """A parent run, and what else its kind knows of it."""

    @property
    def run_id(self) -> str:
        """Its ID."""


Held = TypeVar("Held", bound=Begun)


def find(store: Store, kind: str, wanted: str) -> Run:
    """The sweep or search to go on with.

    Args:
        store: where it is looked for, in its experiment.
        kind: "sweep" or "search", the tag that such a run bears.
        wanted: its ID, or "latest": the newest with a run under it that did not finish and whose process is gone.

    Raises:
        UserError: where there is none, or its process is still at it.
    """
    option = f"{kind}.resume={wanted}"
    if wanted == "latest":
        for one in _all(store, kind):
            unfinished = one.info.status != "FINISHED" and not is_alive(_process(one))
            if unfinished and children(store, one.info.run_id):  # of one that never began nothing is left to do
                return one
        raise UserError(f"{option}: no {kind} is left unfinished in {store.uri}")
    run = _by_id(store, wanted)
    if run is None:
        raise UserError(f"{option} is not in {store.uri}: take the ID of a {kind}, or latest")
    if kind not in run.data.tags:
        raise UserError(f"{option} is no {kind}: take the ID of one, or latest")
    if run.info.experiment_id != store.experiment_id:
        name = store.client.get_experiment(run.info.experiment_id).name
        raise UserError(f"{option} is in the experiment {name!r}: add {typed('tracking.experiment_name', name)}")
    if run.info.status == "RUNNING" and is_alive(_process(run)):
        raise UserError(f"{option}: its process {_process(run).split()[-2]} is at it; stop that first")
    return run


@contextmanager
def opened(
    store: Store, kind: str, begin: Callable[[], Held], sum_up: Callable[[Held, BaseException | None], bool]
) -> Iterator[Held]:
    """Hold such a run open while others nest under it, and end it however they end.

    Args:
        store: where it is.
        kind: "sweep" or "search".
        begin: makes the run or finds it again. A signal meanwhile waits, so that none is left running.
        sum_up: gets the run and the error that ended it, and tells whether nothing under it failed.
    """
    with Interrupts() as interrupts:
        interrupts.hold()
        held = begin()
        store.client.set_tag(held.run_id, PROCESS, this_process())
        store.client.update_run(held.run_id, status="RUNNING")
        _end_killed(store, held.run_id)
        os.environ[PARENT] = held.run_id
        error: BaseException | None = None
        try:
            interrupts.release()
            yield held
        except BaseException as raised:
            error = interrupts.asked() or raised
            if error is raised:
                raise
            raise error from None  # Ray puts an exit with code 1 in place of what a signal raised
        finally:
            interrupts.hold()
            del os.environ[PARENT]
            _close(store, kind, held, error, sum_up)


def _close(
    store: Store,
    kind: str,
    held: Held,
    error: BaseException | None,
    sum_up: Callable[[Held, BaseException | None], bool],
) -> None:
    """Sum up and end; trouble with that must not hide the error that ended it.

    One that ended before any run began under it is deleted: a command line that is refused leaves nothing.
    """
    status, never_began = status_of(error), False
    try:
        _end_killed(store, held.run_id)  # no job runs any more, but its process may have been killed
        never_began = error is not None and not children(store, held.run_id)
        if not never_began and not sum_up(held, error) and error is None:
            status = "FAILED"
    except Exception as trouble:
        if error is None:
            status = "FAILED"
            why = str(trouble).splitlines()[0]
            raise UserError(f"the {kind} {held.run_id} could not be summed up: {why}") from trouble
    finally:
        store.client.set_terminated(held.run_id, status)
        if never_began:
            store.client.delete_run(held.run_id)


def environment(store: Store, run_id: str) -> dict[str, str]:
    """The variables by which runs in other processes find the one that they nest under."""
    named = {EXPERIMENT_NAME: os.environ[EXPERIMENT_NAME]} if EXPERIMENT_NAME in os.environ else {}
    return {PARENT: run_id, URI: store.uri, OUTPUT: str(output_root()), **named}


def children(store: Store, run_id: str, **tags: str) -> list[Run]:
    """The runs that nest under it, in the order of their start; those alone that bear the given tags."""
    wanted = {"mlflow.parentRunId": run_id, **tags}
    terms = " AND ".join(f"tags.`{key}` = '{value}'" for key, value in wanted.items())
    return list(store.client.search_runs([store.experiment_id], terms, order_by=["attributes.start_time ASC"]))


def _end_killed(store: Store, run_id: str) -> None:
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
