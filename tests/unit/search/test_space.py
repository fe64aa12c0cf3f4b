"""The command line of a search, and the error for each mistake in it."""

import sys

import pytest
from optuna import create_study
from optuna.samplers import RandomSampler
from support.assertions import refused

from nl_nodes import UserError
from nl_training.commands.search import search
from nl_training.commands.train import refuse_ignored
from nl_training.config.cli import check
from nl_training.search.space import Dimension, dimension, read


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optimizer.lr=interval(0.1,0.5)", Dimension("optimizer.lr", 0.1, 0.5)),
        ("optimizer.lr=tag(log,interval(1e-4,1e-1))", Dimension("optimizer.lr", 1e-4, 1e-1, log=True)),
        ("model.width=int(interval(8,64))", Dimension("model.width", 8, 64)),
        ("optimizer=sgd,adam", Dimension("optimizer", choices=("sgd", "adam"))),
        ("optimizer=choice(sgd,adam)", Dimension("optimizer", choices=("sgd", "adam"))),
        ("model.width=range(8,20,4)", Dimension("model.width", choices=("8", "12", "16"))),
        (
            "schedule=glob(*)",
            Dimension("schedule", choices=("constant", "cosine", "exponential", "onecycle", "plateau", "step")),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_overrides_are_parsed_as_search_space(text: str, expected: Dimension) -> None:
    assert dimension(text) == expected


def test_every_suggestion_is_a_valid_override() -> None:
    texts = ["model.width=int(interval(4,32))", "optimizer=sgd,adam", "optimizer.lr=tag(log,interval(1e-6,1e-1))"]
    plan = read(["model=mlp", *texts])
    study = create_study(sampler=RandomSampler(seed=0))
    found = set()
    for _ in range(30):
        trial = study.ask()
        config = check([*plan.fixed, *(d.suggest(trial) for d in plan.space)], multirun=False)
        assert 4 <= config.model.width <= 32
        assert 1e-6 <= config.optimizer.lr <= 1e-1
        assert config.optimizer.lr == trial.params["optimizer.lr"]
        found.add((config.model.width, type(config.optimizer).__name__))
    assert len(found) > 10
    assert {kind for _, kind in found} == {"SGDConfig", "AdamConfig"}


def test_command_line_replaces_the_options_search_space() -> None:
    assert [d.key for d in read(["model=mlp"]).space] == ["optimizer.lr", "regularization.weight_decay"]
    assert [d.key for d in read(["model=mlp", "optimizer.lr=0.1"]).space] == ["regularization.weight_decay"]
    plan = read(["seed=3", "search=random", "search.trials=7", "optimizer=sgd,adam"])
    assert [d.key for d in plan.space] == ["optimizer"]
    assert plan.fixed == ("seed=3",)
    assert (plan.search.sampler, plan.search.trials) == ("random", 7)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["optimizer.lrr=interval(0.1,0.2)"], ["optimizer.lrr", "optimizer.lr?"]),
        (["optimizer.lr=interval(0,1)"], ["optimizer.lr=0.0", "above 0"]),
        (["optimizer.lr=interval(1,0.1)"], ["optimizer.lr", "LOW < HIGH"]),
        (["optimizer.lr=tag(log,interval(-1,1))"], ["optimizer.lr", "logarithmic"]),
        (["optimizer.lr=tag(lin,interval(0.1,1))"], ["tag"]),
        (["model.width=interval(8,64)"], ["model.width=8.0", "whole number"]),
        (["optimizer=sgd,adamm"], ["adamm", "adam?"]),
        (["optimizer=sgd,adam", "optimizer=sgd,nesterov"], ["optimizer", "twice"]),
        (["search=tpf"], ["tpf", "tpe?"]),
        (["search.trials=0"], ["search.trials=0", "1 or more"]),
        (["search.prune=maybe"], ["search.prune"]),
        (["search.trial=3"], ["search.trial", "search.trials?"]),
        (["search.space=[]"], ["nothing to search"]),
        (["search.space=['optimizer.lr=0.1']"], ["optimizer.lr=0.1", "interval"]),
        (["search=null"], ["search=null", "tpe"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_invalid_search_space_is_reported_in_one_line(overrides: list[str], words: list[str]) -> None:
    with refused(*words):
        read(overrides)


@pytest.mark.parametrize(
    "option", ["tracking=off", "data.validation=0", "data.validation=0,0.1", "trainer.max_seconds=2,null"]
)
def test_search_needs_tracking_validation_and_whole_trainings(option: str) -> None:
    with refused(option.partition("=")[0]):
        search([option])


def test_a_key_with_a_value_is_not_searched() -> None:
    with refused("optimizer.lr has a value and is searched"):
        read(["optimizer.lr=0.1", "search.space=['optimizer.lr=interval(0.1,0.2)']"])
    with refused("optimizer.lr has a value and is searched"):
        read(["optimizer.lr=0.1", "optimizer.lr=0.2,0.3"])
    with refused("nothing to search"):
        read(["optimizer.lr=0.1", "regularization.weight_decay=0"])


@pytest.mark.parametrize("option", ["resume=abc", "sweep.resume=latest"])
def test_search_refuses_to_resume_a_run_or_a_sweep(option: str) -> None:
    with refused(option, "search.resume=ID"):
        search([option])


def test_train_script_refuses_a_search_option() -> None:
    with pytest.raises(UserError, match="nl search"):
        refuse_ignored(check(["search=tpe"], multirun=False))


def test_key_of_another_search_option_is_reported_in_one_line() -> None:
    with refused("search.trials"):
        check(["search.trials=3"], multirun=False)


def test_missing_optuna_is_reported_with_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with refused("pip install", "optuna"):
        search([])
