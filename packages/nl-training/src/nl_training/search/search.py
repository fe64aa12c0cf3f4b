"""The search itself: trials, one after the other, until enough of them have finished."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from nl_nodes import UserError
from nl_training.commands.train import train
from nl_training.config.cli import composed
from nl_training.paths import output_root
from nl_training.search import parent
from nl_training.search.space import Plan, read
from nl_training.tracking import parent_run
from nl_training.tracking.address import sqlite_folder, sqlite_uri
from nl_training.tracking.links import view_hint
from nl_training.tracking.store import Store
from nl_training.training.callbacks import Callback, EpochReport, Pruned
from nl_training.training.trainer import Diverged, Trainer

if TYPE_CHECKING:
    from optuna import Study, Trial

STORED = "overrides"  # the attribute of a study that holds its command line
AGAIN = "again"  # the attribute of a trial that repeats a killed one


def search(overrides: Sequence[str]) -> None:
    """Search, or go on with a search, until enough trials have finished; print the best config as a command.

    Raises:
        UserError: where what is asked for is none, or Optuna is missing.
    """
    try:
        import optuna
    except ImportError:
        raise UserError("searching needs the package optuna: python -m pip install -c constraints.txt optuna") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    plan = read(overrides)
    config, _ = composed(list(plan.fixed))
    if not config.tracking.enabled:
        raise UserError("tracking=off: a search keeps its trials in MLflow; leave tracking=off out")
    if not config.data.validation:
        raise UserError("data.validation=0.0: a search chooses by validation accuracy; set it above 0")
    store = Store.of(config.tracking)
    begin = partial(_begin, store, plan) if plan.search.resume is None else partial(_go_on, store, plan)
    with parent_run.opened(store, "search", begin, partial(parent.sum_up, store)) as begun:
        run_id, plan, study = begun.run_id, begun.plan, begun.study
        _repeat_killed(study)
        while _finished(study) < plan.search.trials:
            _try(study, plan, store, run_id)
    _print(study, plan, store, run_id)


def _begin(store: Store, plan: Plan) -> parent.Begun:
    """A new search."""
    run_id = parent.create(store, plan)
    study = _study(store, run_id, plan)
    study.set_user_attr(STORED, list(plan.overrides))
    return parent.Begun(run_id, plan, study)


def _go_on(store: Store, asked: Plan) -> parent.Begun:
    """A search that is there: its own command line holds, but as many trials as are asked for now."""
    import optuna

    more = [text for text in asked.overrides if text.startswith("search.trials=")]
    beside = ("search.resume=", "search.trials=", "tracking")  # the last says where the search is
    if others := [text for text in asked.overrides if not text.startswith(beside)]:
        raise UserError(f"{others[0]}: a search goes on with its own config; only search.trials may stand beside it")
    run_id = str(parent_run.find(store, "search", str(asked.search.resume)).info.run_id)
    kept = {s.study_name: s.user_attrs.get(STORED) for s in optuna.get_all_study_summaries(_storage(store))}
    own = kept.get(run_id)
    if own is None:
        raise UserError(f"search.resume={run_id}: its study is not in {_storage(store)}: start the search anew")
    plan = read([*(text for text in own if not (more and text.startswith("search.trials="))), *more])
    return parent.Begun(run_id, plan, _study(store, run_id, plan))


def _storage(store: Store) -> str:
    """Where studies are kept: beside the runs, or in the output root where these are on a server."""
    return sqlite_uri((sqlite_folder(store.uri) or output_root()) / "optuna.db")


def _study(store: Store, run_id: str, plan: Plan) -> Study:
    """The study of a search's run; a resumed one draws anew."""
    import optuna

    storage = optuna.storages.RDBStorage(_storage(store), engine_kwargs={"connect_args": {"timeout": 60}})
    study = optuna.create_study(storage=storage, study_name=run_id, direction="maximize", load_if_exists=True)
    seed = composed(list(plan.fixed))[0].seed + len(study.get_trials(deepcopy=False))
    startup = plan.search.startup
    if plan.search.sampler == "random":
        study.sampler = optuna.samplers.RandomSampler(seed=seed)
    else:
        study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup)
    # Optuna prunes from that step on; epochs count from 1.
    median = optuna.pruners.MedianPruner(startup, plan.search.warmup_epochs + 1)
    study.pruner = median if plan.search.prune else optuna.pruners.NopPruner()
    return study


def _repeat_killed(study: Study) -> None:
    """Mark the trials that a killed process left running, and line up their values to be tried again."""
    from optuna.trial import TrialState

    repeated = {trial.user_attrs.get(AGAIN) for trial in study.get_trials(deepcopy=False)}
    for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        if trial.params and trial.number not in repeated:
            study.enqueue_trial(trial.params, user_attrs={AGAIN: trial.number})
        study.tell(trial.number, state=TrialState.FAIL)


def _finished(study: Study) -> int:
    from optuna.trial import TrialState

    return len(study.get_trials(deepcopy=False, states=[TrialState.COMPLETE, TrialState.PRUNED]))


def _try(study: Study, plan: Plan, store: Store, run_id: str) -> None:
    """Run one trial. One that is interrupted stays unfinished; resuming the search tries it again."""
    from optuna.trial import TrialState

    trial = study.ask()
    chosen = [d.suggest(trial) for d in plan.space]
    print(f"\ntrial {trial.number}: {' '.join(chosen)}", flush=True)
    config, cfg = composed([*plan.fixed, *chosen])
    try:
        result = train(config, cfg, [Reporter(trial)], {"search.trial": str(trial.number)})
        assert result is not None  # a trial is a new run
        value = max(report.metrics["val/acc"] for report in result.history)
        study.tell(trial, value)
        said = f"validation accuracy {value:.4f}"
    except (Pruned, Diverged) as error:  # what diverges is as good as pruned: the sampler learns to avoid it
        study.tell(trial, state=TrialState.PRUNED)
        said = f"pruned: {error}"
    done = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    best = ""
    if done:
        best = f"; best {study.best_value:.4f}, trial {study.best_trial.number}"
        store.client.log_metric(run_id, "search/best_val_acc", study.best_value, step=trial.number)
    print(f"trial {trial.number}: {said}{best}; {_finished(study)} of {plan.search.trials} done", flush=True)


class Reporter(Callback):
    """Tells a trial its validation accuracy after each epoch, and ends the training where the pruner says so."""

    def __init__(self, trial: Trial) -> None:
        self._trial = trial
        self._last_step = 0

    def on_start(self, trainer: Trainer) -> None:
        """Note where the training ends by itself."""
        self._last_step = trainer.total_steps

    def on_epoch(self, report: EpochReport) -> None:
        """Report, and end the training if its trial falls behind."""
        value = report.metrics["val/acc"]
        self._trial.report(value, report.epoch)
        if report.step < self._last_step and self._trial.should_prune():
            raise Pruned(f"validation accuracy {value:.4f} after epoch {report.epoch}")


def _print(study: Study, plan: Plan, store: Store, run_id: str) -> None:
    from optuna.trial import TrialState

    finished: list[Any] = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    print(f"\nsearch {run_id}: {_finished(study)} trials, {_finished(study) - len(finished)} pruned")
    if finished:
        print(f"best   validation accuracy {study.best_value:.4f}, trial {study.best_trial.number}")
        print(f"again  {parent.command(plan, study.best_trial.params)}")
    print(view_hint(store.uri, store.experiment_id, run_id))
