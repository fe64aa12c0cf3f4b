"""Values that Hydra's grammar does not read as text: they are accepted, or the error shows how to write them."""

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from support.assertions import refused

from nl_training.config.cli import check
from nl_training.config.quoting import quote_text, quoted, read_override, shell_override


@pytest.mark.parametrize(
    "folder",
    [
        "/사진",
        "/ü",
        "/a=b",
        "/a b",
        "/a(1)",
        "/it's",
        "/a#b",
        "~x",
        "[1]",
        "/a:b",
        "{x}",
        "/a&b",
        '/q"q',
        "123",
        "1e3",
        "x ",
    ],
)
def test_unquoted_path_is_accepted(folder: str) -> None:
    assert check([f"data.root={folder}"], multirun=False).data.root == folder


@pytest.mark.parametrize("folder", ["/a,b", "/사진,b", "glob(*)"])
def test_ambiguous_value_is_refused_with_advice_on_quoting(folder: str) -> None:
    written = shell_override("data.root", folder)
    with refused(f"data.root={folder}", written):
        check([f"data.root={folder}"], multirun=False)
    assert check(shlex.split(written), multirun=False).data.root == folder


def test_invalid_value_is_reported() -> None:
    with refused("optimizer.lr", "KEY=VALUE"):
        check(["optimizer.lr"], multirun=False)
    with refused("cannot read 'optimizer.lr=(1'", """'optimizer.lr="(1"'"""):
        check(["optimizer.lr=(1"], multirun=False)


@pytest.mark.parametrize(
    "text",
    [
        "data.root=null",
        'data.root="a,b"',
        "data.root=/a",
        "data.root=${oc.env:HOME}/a",
        "seed=1",
        "model=mlp,cnn3",
        "x",
    ],
)
def test_unambiguous_values_are_passed_to_hydra_unchanged(text: str) -> None:
    assert quote_text(text) == text


@given(st.text(st.sampled_from("""\\"'${}a가, =()[]#~"""), min_size=1, max_size=9))
def test_a_quoted_value_is_the_value(value: str) -> None:
    for written in (f"data.root={quoted(value)}", *shlex.split(shell_override("data.root", value))):
        override = read_override(written)
        assert override is not None
        assert OmegaConf.create({"root": override.value()}).root == value


def test_a_quoted_value_is_composed() -> None:
    assert check([f"data.root={quoted('${x}')}"], multirun=False).data.root == "${x}"
