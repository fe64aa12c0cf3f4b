"""Names, tags and descriptions of runs."""

import pytest

from nl_training.config.cli import _compose
from nl_training.config.resolve import resolve
from nl_training.tracking.naming import NOTE, paragraphs, run_name, table, user_tags


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "cnn3 adam"),
        (["model=mlp", "optimizer=nesterov"], "mlp nesterov"),
        (["experiment=race"], "race"),
        (["tracking.name=the best"], "the best"),
        ([f"tracking.name={'x' * 300}"], "x" * 250),
    ],
)
def test_single_run_is_named_by_its_main_parts_or_by_the_user(overrides: list[str], name: str) -> None:
    cfg = _compose(overrides)
    assert run_name(resolve(cfg), cfg) == name


def test_note_precedes_the_experiments_description() -> None:
    config = resolve(_compose(["experiment=race", "tracking.note=Mine.", "tracking.tags={project: a, draft: true}"]))
    tags = user_tags(config)
    assert (tags["project"], tags["draft"]) == ("a", "True")
    assert tags[NOTE].startswith(f"Mine.\n\n**{config.experiment.title}**")
    assert user_tags(resolve(_compose([]))) == {}


def test_table_in_markdown() -> None:
    assert table(["a", "b"], [["x|y", "1"], ["z", "2"]]) == "| a | b |\n| --- | --- |\n| x\\|y | 1 |\n| z | 2 |"
    assert paragraphs("a", None, "", "b") == "a\n\nb"
