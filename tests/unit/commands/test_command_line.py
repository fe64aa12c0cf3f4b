"""The command line: flags and overrides in any order; refused ones leave no files."""

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from omegaconf import DictConfig
from support.assertions import refused

from nl_nodes import UserError
from nl_training.config.arguments import split
from nl_training.config.cli import main
from nl_training.config.schema import Config


class Recorder:
    """Records the arguments of a script's task and sweep."""

    def __init__(self, error: Exception | None = None) -> None:
        self.seeds: list[int] = []
        self.sweeps: list[list[str]] = []
        self.error = error

    def task(self, config: Config, cfg: DictConfig) -> None:
        if self.error is not None:
            raise self.error
        self.seeds.append(config.seed)

    @contextmanager
    def sweep(self, config: Config, overrides: list[str]) -> Iterator[Mapping[str, str]]:
        self.sweeps.append(overrides)
        yield {}


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def run(*arguments: str, error: Exception | None = None) -> Recorder:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        recorder = Recorder(error)
        main(recorder.task, recorder.sweep)
        return recorder

    level = logging.getLogger().level
    yield run
    logging.getLogger().setLevel(level)  # Hydra sets its own


@pytest.mark.parametrize("at", range(4))
@pytest.mark.parametrize("flag", ["-m", "--multirun"])
def test_multirun_flag_can_be_anywhere(flag: str, at: int) -> None:
    overrides = ["model=mlp", "seed=0,1", "optimizer=sgd"]
    found = split([*overrides[:at], flag, *overrides[at:]])
    assert (found.multirun, found.runs, found.overrides) == (True, True, overrides)
    assert found.ordered() == ["--multirun", *overrides]


def test_a_sweep_runs_with_its_flag_between_the_overrides(command, tmp_path: Path) -> None:
    where = f"hydra.sweep.dir={tmp_path}"
    recorder = command("model=mlp", "-m", "seed=3,4", where)
    assert (recorder.seeds, recorder.sweeps) == ([3, 4], [["model=mlp", "seed=3,4", where]])


def test_no_arguments_run_the_defaults(command, tmp_path: Path) -> None:
    recorder = command(f"hydra.run.dir={tmp_path}/out")
    assert (recorder.seeds, recorder.sweeps) == ([0], [])
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".hydra"]


def test_refused_task_leaves_no_folder(command, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="error: no such data"):
        command(f"hydra.run.dir={tmp_path}/a/b", error=UserError("no such data"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [[], ["-m"]])
def test_out_of_memory_is_reported_in_one_line(command, arguments: list[str], tmp_path: Path) -> None:
    where = (f"hydra.run.dir={tmp_path}/a", f"hydra.sweep.dir={tmp_path}/a")
    with pytest.raises(SystemExit, match=r"not enough memory: Unable to allocate 9 PiB$"):
        command(*arguments, *where, error=MemoryError("Unable to allocate 9 PiB"))


@pytest.mark.parametrize(
    "arguments",
    [["-m", "seed=0,-1"], ["hydra/launcher=jobib", "-m", "seed=0,1"], ["--cfg", "job", "-m", "seed=0,1"], ["-m", "-x"]],
    ids=" ".join,
)
def test_refused_sweep_does_not_start(command, arguments: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"^error: "):
        command(*arguments, f"hydra.sweep.dir={tmp_path}/out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "ordered"),
    [
        (["model=mlp", "--cfg", "job", "seed=3"], ["--cfg=job", "model=mlp", "seed=3"]),
        (["-c=all", "--resolve", "-p", "model"], ["--cfg=all", "--resolve", "--package=model"]),
        (["--info", "model=mlp"], ["--info=all", "model=mlp"]),
        (["-i", "defaults-tree", "model=mlp"], ["--info=defaults-tree", "model=mlp"]),
        (["--hydra-help", "model=mlp"], ["--hydra-help"]),
        (["model=mlp", "-h"], ["--help", "model=mlp"]),
        (["-m", "model=mlp,cnn3", "--help"], ["--help"]),
        (["--version", "model=mlp"], ["--version"]),
        (["-sc", "query=bash", "-x"], ["--shell-completion", "query=bash", "-x"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_flags_are_moved_before_overrides(arguments: list[str], ordered: list[str]) -> None:
    assert split(arguments).ordered() == ordered


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-cn", "nope"], ["-cn"]),
        (["--multi"], ["--multi", "--multirun?"]),
        (["--run", "nonsense", "--rn"], ["--rn", "--run?"]),
        (["--cfg", "jobs"], ["--cfg jobs", "job?"]),
        (["--cfg"], ["--cfg", "job"]),
        (["--cfg", "job", "-m"], ["--cfg", "--multirun"]),
        (["--info", "pluginz"], ["--info pluginz", "plugins?"]),
        (["--cfg", "job", "--info"], ["--cfg", "--info"]),
        (["-m", "-r"], ["--run", "--multirun"]),
        (["-m=3"], ["-m", "=3"]),
        (["--resolve"], ["--resolve", "--cfg"]),
        (["--package", "model"], ["--package", "--cfg"]),
        (["--cfg", "job", "-p"], ["-p"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_unknown_flag_is_refused(arguments: list[str], words: list[str]) -> None:
    with refused(*words):
        split(arguments)


@pytest.mark.parametrize("arguments", [["seed=3", "--cfg", "job"], ["--cfg", "job", "-p", "trainer"]], ids=" ".join)
def test_flags_that_show_information_run_nothing(command, arguments: list[str], tmp_path: Path, capsys) -> None:
    recorder = command(*arguments)
    assert (recorder.seeds, recorder.sweeps) == ([], [])
    assert "on_nan: stop" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
