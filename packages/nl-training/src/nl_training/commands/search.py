"""The search command: hyperparameter search, one trial after the other."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from nl_nodes import UserError
from nl_training.commands.train import train
from nl_training.config.cli import asks_for_help, composed, script
from nl_training.config.sweep_jobs import key_of
from nl_training.search import search_run
from nl_training.search.space import Plan, read
from nl_training.search.study import Reporter, begin, count_finished, find, repeat_killed, resume
from nl_training.tracking import parent_run
from nl_training.tracking.address import given_experiment_name
from nl_training.tracking.links import view_hint
from nl_training.tracking.naming import joined
from nl_training.tracking.store import Store
from nl_training.training.callbacks import Pruned
from nl_training.training.trainer import Diverged

if TYPE_CHECKING:
    from optuna import Study

HELP = """Searches hyperparameters by validation accuracy with Optuna; trials are MLflow runs nested under one parent.

  nl search                                      learning rate and weight decay of CNN3
  nl search model=mlp optimizer=sgd,adam 'optimizer.lr=tag(log,interval(1e-4,1e-1))'
  nl search search=random search.trials=100 trainer.epochs=10 'model.width=int(interval(16,64))'
  nl search search.resume=latest                 resume a search that was stopped or killed
  nl search search.resume=ID search.trials=40    resume until 40 trials have finished

Keys with several values are searched: interval(LOW,HIGH), tag(log,interval(LOW,HIGH)), int(interval(LOW,HIGH)),
choice(A,B) or A,B. The other overrides are those of nl train; conf/search documents search.*.
Needs the package optuna: python -m pip install -c constraints.txt optuna"""


def main() -> None:
    """Run or resume the search of the command line."""
    if asks_for_help(sys.argv[1:]):
        print(HELP)
        return
    with script():
        search(sys.argv[1:])


def search(overrides: Sequence[str]) -> None:
    """Run or resume a search until enough trials have finished; print the best config as a command.

    Raises:
        UserError: if the command line is wrong, or Optuna is missing.
    """
    try:
        import optuna
    except ImportError:
        raise UserError("searching needs the package optuna: python -m pip install -c constraints.txt optuna") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for text in overrides:
        if key_of(text) in ("resume", "sweep.resume"):
            raise UserError(f"{text}: a search is resumed by search.resume=ID")
    plan = read(overrides)
    config, _ = composed(list(plan.fixed))
    store = Store.of(config.tracking, config.experiment)
    start = partial(begin, store, plan, config)
    if plan.search.resume is not None:
        found = find(store, plan, given_experiment_name(config.tracking.experiment_name))
        store = store.of_run(found)
        start = partial(resume, store, plan, str(found.info.run_id))
    with parent_run.opened(store, "search", start, partial(search_run.sum_up, store)) as opened:
        run_id, plan, study = opened.run_id, opened.plan, opened.study
        repeat_killed(study)
        while count_finished(study) < plan.search.trials:
            _run_trial(study, plan, store, run_id)
    _print(study, plan, store, run_id)


def _run_trial(study: Study, plan: Plan, store: Store, run_id: str) -> None:
    """Run one trial; an interrupted one stays unfinished, and is repeated when the search is resumed."""
    from optuna.trial import TrialState

    trial = study.ask()
    chosen = [d.suggest(trial) for d in plan.space]
    print(f"\ntrial {trial.number}: {' '.join(chosen)}", flush=True)
    config, cfg = composed([*plan.fixed, *chosen])
    try:
        tags = {"search.trial": str(trial.number)}
        result = train(config, cfg, [Reporter(trial)], tags, joined(chosen))
        assert result is not None  # a trial is a new run
        value = max(report.metrics["val/acc"] for report in result.history)
        study.tell(trial, value)
        text = f"validation accuracy {value:.4f}"
    except (Pruned, Diverged) as error:  # a diverged trial counts as pruned, so that the sampler avoids its region
        study.tell(trial, state=TrialState.PRUNED)
        text = f"pruned: {error}"
    done = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    best = ""
    if done:
        best = f"; best {study.best_value:.4f}, trial {study.best_trial.number}"
        store.client.set_tag(run_id, "best.val_acc", f"{study.best_value:.4f}")
    print(f"trial {trial.number}: {text}{best}; {count_finished(study)} of {plan.search.trials} done", flush=True)


def _print(study: Study, plan: Plan, store: Store, run_id: str) -> None:
    from optuna.trial import TrialState

    finished: list[Any] = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    print(f"\nsearch {run_id}: {count_finished(study)} trials, {count_finished(study) - len(finished)} pruned")
    if finished:
        print(f"best   validation accuracy {study.best_value:.4f}, trial {study.best_trial.number}")
        print(f"again  {search_run.command(plan, study.best_trial.params)}")
    print(view_hint(store.uri, store.experiment_id, run_id))
