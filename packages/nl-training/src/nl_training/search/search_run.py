"""The parent run of a search: its trials are nested runs, and it is closed with a summary of them."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from nl_training.config import folders
from nl_training.config.cli import composed
from nl_training.paths import program
from nl_training.search import plots
from nl_training.search.space import Plan
from nl_training.tracking import parent_page, provenance
from nl_training.tracking.naming import NOTE, joined, user_tags
from nl_training.tracking.parent_run import children, tag_best
from nl_training.tracking.process import PROCESS, this_process
from nl_training.tracking.store import Store

if TYPE_CHECKING:
    from optuna import Study

    from nl_training.config.schema import Config


def create(store: Store, plan: Plan, config: Config) -> str:
    """Create a search's run and return its ID, which is also the study's name; `config` is that of its trials."""
    searched = config.tracking.name or f"search {', '.join(d.key for d in plan.space)}"
    tags = {**user_tags(config), **provenance.tags(), "search": plan.search.sampler, PROCESS: this_process()}
    run = store.client.create_run(store.experiment_id, tags=tags, run_name=joined([searched]))
    params = {"search": {**asdict(plan.search), "command": " ".join(plan.overrides)}}
    provenance.log_params(store.client, run.info.run_id, params)
    return str(run.info.run_id)


@dataclass(frozen=True)
class OpenSearch:
    """An open search.

    Attributes:
        run_id: the ID of its run.
        plan: the search space and options.
        study: its Optuna study.
    """

    run_id: str
    plan: Plan
    study: Study


def sum_up(store: Store, search: OpenSearch, error: BaseException | None) -> str:
    """Log the best trial's metrics and command, and figures; return FINISHED, as a failed trial ends the search."""
    from optuna.trial import TrialState

    client, run_id, plan, study = store.client, search.run_id, search.plan, search.study
    done = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    pruned = study.get_trials(deepcopy=False, states=[TrialState.PRUNED])
    client.set_tag(run_id, "trials", f"{len(done)} finished, {len(pruned)} pruned")
    if not done:
        return "FINISHED"
    best = study.best_trial
    trials, config = children(store, run_id), composed(list(plan.fixed))[0]
    parent_page.log(store, run_id, [d.key for d in plan.space], trials, user_tags(config).get(NOTE))
    for child in trials:
        if child.data.tags.get("search.trial") == str(best.number) and child.info.status == "FINISHED":
            tag_best(client, run_id, child)
    client.set_tag(run_id, "best.trial", str(best.number))
    client.set_tag(run_id, "best.command", command(plan, best.params))
    client.log_figure(run_id, plots.history(done, pruned), "history.png")
    client.log_figure(run_id, plots.slices(plan.space, done, pruned), "slices.png")
    if shares := importances(study):
        client.log_figure(run_id, plots.importances(shares, len(done)), "importances.png")
        client.log_dict(run_id, shares, "importances.json")
    return "FINISHED"


def command(plan: Plan, params: dict[str, Any]) -> str:
    """Return the command that trains the config of a trial's parameters."""
    chosen = [d.override(params[d.key]) for d in plan.space]
    return f"{program()} train {shlex.join([*folders.flags(), *plan.fixed, *chosen])}"


def importances(study: Study) -> dict[str, float]:
    """Return each key's importance; empty if the finished trials have fewer than two distinct values."""
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances
    from optuna.trial import TrialState

    values = {trial.value for trial in study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])}
    if len(values) < 2:
        return {}
    return get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
