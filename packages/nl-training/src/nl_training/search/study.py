"""The Optuna study of a search: creation, resumption and reports of trials."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nl_nodes import UserError
from nl_training.config.cli import composed
from nl_training.paths import output_root
from nl_training.search import search_run
from nl_training.search.space import Plan, read
from nl_training.tracking import parent_run
from nl_training.tracking.address import sqlite_folder, sqlite_uri
from nl_training.tracking.store import Store
from nl_training.training.callbacks import Callback, EpochReport, Pruned, TrainingState

if TYPE_CHECKING:
    from mlflow.entities import Run
    from optuna import Study, Trial

    from nl_training.config.schema import Config

STORED = "overrides"  # the attribute of a study with its command line
AGAIN = "again"  # the attribute of a trial with the number of the killed trial that it repeats


def begin(store: Store, plan: Plan, config: Config) -> search_run.OpenSearch:
    """Create a search: its run and its study; `config` is that of its trials."""
    run_id = search_run.create(store, plan, config)
    study = _study(store, run_id, plan)
    study.set_user_attr(STORED, list(plan.overrides))
    return search_run.OpenSearch(run_id, plan, study)


def find(store: Store, given: Plan, experiment_name: str | None) -> Run:
    """Return the run of the search to resume: `latest` is of the given experiment, or of all if none is given."""
    allowed = ("search.resume=", "search.trials=", "tracking.uri=", "tracking.experiment_name=")
    if others := [text for text in given.overrides if not text.startswith(allowed)]:
        raise UserError(f"{others[0]}: a search is resumed with its own config; only search.trials can be changed")
    wanted = str(given.search.resume)
    return parent_run.find(store, "search", wanted, store.experiments(experiment_name, f"search.resume={wanted}"))


def resume(store: Store, given: Plan, run_id: str) -> search_run.OpenSearch:
    """Open an existing search, of this run, with its own command line, except for a given number of trials."""
    import optuna

    more = [text for text in given.overrides if text.startswith("search.trials=")]
    stored = {s.study_name: s.user_attrs.get(STORED) for s in optuna.get_all_study_summaries(_storage(store))}
    own = stored.get(run_id)
    if own is None:
        raise UserError(f"search.resume={run_id}: its study is not in {_storage(store)}: start a new search")
    plan = read([*(text for text in own if not (more and text.startswith("search.trials="))), *more])
    return search_run.OpenSearch(run_id, plan, _study(store, run_id, plan))


def _storage(store: Store) -> str:
    """Return the URI of the studies' database: next to the runs, or in the output root if those are on a server."""
    return sqlite_uri((sqlite_folder(store.uri) or output_root()) / "optuna.db")


def _study(store: Store, run_id: str, plan: Plan) -> Study:
    """Create or load the study of a search's run; the sampler's seed depends on the number of trials so far."""
    import optuna

    storage = optuna.storages.RDBStorage(_storage(store), engine_kwargs={"connect_args": {"timeout": 60}})
    study = optuna.create_study(storage=storage, study_name=run_id, direction="maximize", load_if_exists=True)
    seed = composed(list(plan.fixed))[0].seed + len(study.get_trials(deepcopy=False))
    startup = plan.search.startup
    if plan.search.sampler == "random":
        study.sampler = optuna.samplers.RandomSampler(seed=seed)
    else:
        study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup)
    # Optuna prunes from this step on; epochs count from 1.
    median = optuna.pruners.MedianPruner(startup, plan.search.warmup_epochs + 1)
    study.pruner = median if plan.search.prune else optuna.pruners.NopPruner()
    return study


def repeat_killed(study: Study) -> None:
    """Mark the trials of a killed process as failed, and enqueue their parameters again."""
    from optuna.trial import TrialState

    repeated = {trial.user_attrs.get(AGAIN) for trial in study.get_trials(deepcopy=False)}
    for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        if trial.params and trial.number not in repeated:
            study.enqueue_trial(trial.params, user_attrs={AGAIN: trial.number})
        study.tell(trial.number, state=TrialState.FAIL)


def count_finished(study: Study) -> int:
    """Return the number of trials that are complete or pruned."""
    from optuna.trial import TrialState

    return len(study.get_trials(deepcopy=False, states=[TrialState.COMPLETE, TrialState.PRUNED]))


class Reporter(Callback):
    """Reports validation accuracy to a trial after each epoch, and ends the training if the pruner decides so."""

    def __init__(self, trial: Trial) -> None:
        self._trial = trial
        self._last_step = 0

    def on_start(self, trainer: TrainingState) -> None:
        """Store the number of the last step."""
        self._last_step = trainer.total_steps

    def on_epoch(self, report: EpochReport) -> None:
        """Report the epoch's validation accuracy; raise `Pruned` if the trial should be pruned."""
        value = report.metrics["val/acc"]
        self._trial.report(value, report.epoch)
        if report.step < self._last_step and self._trial.should_prune():
            raise Pruned(f"validation accuracy {value:.4f} after epoch {report.epoch}")
