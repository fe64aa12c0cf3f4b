"""The run of a whole search: its trials nest under it, and it is closed with what they came to."""

from __future__ import annotations

import json
import os
import shlex
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import psutil

from nl_nodes import UserError
from nl_training.search import plots
from nl_training.search.space import Plan
from nl_training.tracking import provenance
from nl_training.tracking.interrupts import Interrupts, status_of
from nl_training.tracking.run import PARENT
from nl_training.tracking.store import Store

if TYPE_CHECKING:
    from mlflow.entities import Run
    from optuna import Study

TAG, PROCESS = "search", "search.process"
FIGURES = ("best/val_acc", "best/test_acc", "final/test_acc", "final/test_loss")


def create(store: Store, plan: Plan) -> str:
    """A new run for a search; its ID is the study's name."""
    searched = ", ".join(d.key for d in plan.space)
    tags = {**provenance.tags(), TAG: plan.search.sampler, PROCESS: _process()}
    run = store.client.create_run(store.experiment_id, tags=tags, run_name=f"search {searched}")
    params = {"search": {**asdict(plan.search), "command": " ".join(plan.overrides)}}
    provenance.log_params(store.client, run.info.run_id, params)
    return str(run.info.run_id)


def find(store: Store, wanted: str) -> str:
    """The ID of the search to go on with; `latest` is the newest unfinished one whose process is gone.

    Raises:
        UserError: where there is none, or its process is still at it.
    """
    from mlflow.exceptions import MlflowException

    if wanted == "latest":
        found = store.client.search_runs(
            [store.experiment_id], f"tags.{TAG} LIKE '%'", order_by=["attributes.start_time DESC"]
        )
        left = [run for run in found if run.info.status != "FINISHED" and not _alive(run)]
        if not left:
            raise UserError("search.resume=latest: no search is left unfinished")
        return str(left[0].info.run_id)
    try:
        run = store.client.get_run(wanted)
    except MlflowException:
        raise UserError(f"search.resume={wanted} is not in {store.uri}: take the ID of a search, or latest") from None
    if TAG not in run.data.tags:
        raise UserError(f"search.resume={wanted} is no search: take the ID of one, or latest")
    if _alive(run):
        raise UserError(f"search.resume={wanted}: its process {json.loads(run.data.tags[PROCESS])['pid']} is at it")
    return wanted


def _process() -> str:
    me = psutil.Process()
    return json.dumps({"host": socket.gethostname(), "pid": me.pid, "since": me.create_time()})


def _alive(run: Run) -> bool:
    """Whether the process that opened the search, or went on with it, still runs on this machine."""
    process = json.loads(run.data.tags[PROCESS])
    if run.info.status != "RUNNING" or process["host"] != socket.gethostname():
        return False
    try:
        return bool(psutil.Process(process["pid"]).create_time() == process["since"])
    except psutil.Error:
        return False


@contextmanager
def opened(store: Store, run_id: str, study: Study, plan: Plan) -> Iterator[None]:
    """Hold a search's run open while trials run under it, and close it with what they came to."""
    client = store.client
    with Interrupts() as interrupts:
        interrupts.hold()
        client.set_tag(run_id, PROCESS, _process())
        client.update_run(run_id, status="RUNNING")
        _end_killed(store, run_id)
        os.environ[PARENT] = run_id
        error: BaseException | None = None
        try:
            interrupts.release()
            yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            interrupts.hold()
            del os.environ[PARENT]
            _close(store, run_id, study, plan, error)


def _end_killed(store: Store, run_id: str) -> None:
    """End what a process that was killed left running."""
    for child in children(store, run_id):
        if child.info.status == "RUNNING":
            store.client.set_terminated(child.info.run_id, "KILLED")


def children(store: Store, run_id: str) -> list[Run]:
    """The runs of a search's trials."""
    nested = f"tags.`mlflow.parentRunId` = '{run_id}'"
    return list(store.client.search_runs([store.experiment_id], nested, order_by=["attributes.start_time ASC"]))


def _close(store: Store, run_id: str, study: Study, plan: Plan, error: BaseException | None) -> None:
    """Sum up and end; trouble with that must not hide the error that ended the search."""
    status = status_of(error)
    try:
        _sum_up(store, run_id, study, plan)
    except Exception as trouble:
        if error is None:
            status = "FAILED"
            raise UserError(f"the search {run_id} could not be summed up: {str(trouble).splitlines()[0]}") from trouble
    finally:
        store.client.set_terminated(run_id, status)


def _sum_up(store: Store, run_id: str, study: Study, plan: Plan) -> None:
    """The best trial's figures and command, and the pictures."""
    from optuna.trial import TrialState

    client = store.client
    done = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    pruned = study.get_trials(deepcopy=False, states=[TrialState.PRUNED])
    client.set_tag(run_id, "trials", f"{len(done)} finished, {len(pruned)} pruned")
    if not done:
        return
    best = study.best_trial
    for child in children(store, run_id):
        if child.data.tags.get("search.trial") == str(best.number) and child.info.status == "FINISHED":
            client.set_tag(run_id, "best.run", child.info.run_id)
            for key in FIGURES:
                client.log_metric(run_id, key, child.data.metrics[key])
    client.set_tag(run_id, "best.trial", str(best.number))
    client.set_tag(run_id, "best.command", command(plan, best.params))
    client.log_figure(run_id, plots.history(done, pruned), "history.png")
    client.log_figure(run_id, plots.slices(plan.space, done, pruned), "slices.png")
    if shares := shares_of(study):
        client.log_figure(run_id, plots.importances(shares, len(done)), "importances.png")
        client.log_dict(run_id, shares, "importances.json")


def command(plan: Plan, params: dict[str, Any]) -> str:
    """What trains a trial's config again."""
    chosen = [d.override(params[d.key]) for d in plan.space]
    return f"python scripts/train.py {shlex.join([*plan.fixed, *chosen])}"


def shares_of(study: Study) -> dict[str, float]:
    """How much each key explains; nothing where all finished trials reached the same, or only one finished."""
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances
    from optuna.trial import TrialState

    values = {trial.value for trial in study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])}
    if len(values) < 2:
        return {}
    return get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
