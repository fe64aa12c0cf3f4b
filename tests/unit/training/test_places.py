"""Output folders and the lookup of runs: other folders, moved and copied stores, other experiments."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
from omegaconf import DictConfig
from support.assertions import refused

from nl_models import mlp
from nl_nodes import UserError
from nl_training import paths
from nl_training.config.cli import check, main
from nl_training.config.run_command import run_command
from nl_training.config.schema import Config, TrackingConfig
from nl_training.paths import optional_output, output_folder, output_root
from nl_training.tracking import MLflowTracker, Store, resume_command
from nl_training.tracking.address import PROJECT, resolve_uri, sqlite_path, sqlite_uri
from nl_training.tracking.artifacts import check_location, local_path
from nl_training.tracking.logged_run import open_run
from nl_training.tracking.process import PROCESS, this_process
from nl_training.tracking.resume import find
from nl_training.tracking.run import CONFIG

NOWHERE = "/proc/nowhere"  # a folder that not even root can create
CHARACTERS = [
    "a b",
    "a#b",
    "a?b",
    "a%b",
    "a%20b",
    "a=b",
    "it's",
    'q"q',
    "사진",
    "a&b;c",
    "a\\b",
    "a:b",
    "[1]",
    "{x}",
    "~x",
    "${x}",
]


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", paths.OUTPUT):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store, created once because creating its tables takes seconds."""
    path = tmp_path_factory.mktemp("tables") / "mlflow.db"
    Store.open(sqlite_uri(path), "template", write=False)
    return path


def new_store(tables: Path, folder: Path, name: str = PROJECT) -> Store:
    folder.mkdir(exist_ok=True)
    if not (folder / "mlflow.db").exists():
        shutil.copy(tables, folder / "mlflow.db")
    return Store.open(sqlite_uri(folder / "mlflow.db"), name)


def at(folder: Path, name: str | None = None) -> TrackingConfig:
    return TrackingConfig(enabled=True, uri=sqlite_uri(folder / "mlflow.db"), experiment_name=name, draw=False)


def finished_run(store: Store) -> str:
    """Make a run like that of a finished training."""
    client, net = store.client, mlp(input_shape=(1, 2, 2), classes=2, hidden=[2], seed=0)
    tags = {"model": repr(net), PROCESS: this_process()}
    run_id = str(client.create_run(store.experiment_id, tags=tags).info.run_id)
    client.log_text(run_id, "seed: 0\n", "config.yaml")
    spec = {"network": net.spec, "classes": ["a", "b"], "mean": [0.0], "std": [1.0]}
    client.log_text(run_id, json.dumps(spec), "weights/network.json")
    folder = local_path(client.get_run(run_id).info.artifact_uri)
    assert folder is not None
    net.save(folder / "weights" / "best.safetensors")
    client.set_terminated(run_id)
    return run_id


def artifacts_of(store: Store, run_id: str) -> Path | None:
    return local_path(store.client.get_run(run_id).info.artifact_uri)


def test_the_output_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert output_root() == paths.ROOT
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(paths, "ROOT", tmp_path / "site-packages")  # installed, without a repository
    assert output_root() == tmp_path
    assert resolve_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv(paths.OUTPUT, "elsewhere")
    assert output_root() == tmp_path / "elsewhere"
    assert resolve_uri("sqlite:///other.db") == f"sqlite:///{tmp_path}/elsewhere/other.db"
    monkeypatch.chdir("/")
    assert output_root() == tmp_path / "elsewhere"
    assert output_folder("outputs", "a").is_dir()


def test_unwritable_folder_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(paths.OUTPUT, NOWHERE)
    with refused(NOWHERE, "NL_OUTPUT"):
        output_folder("outputs")
    with optional_output("pictures", "evaluate") as folder:
        (folder / "picture.png").write_text("")
    said = capsys.readouterr()
    assert said.err.startswith(f"no pictures: {NOWHERE}")
    assert said.out == ""
    assert not folder.exists()


def started(monkeypatch: pytest.MonkeyPatch, arguments: list[str], logs: bool = True) -> list[int]:
    """Return the seeds of the jobs that a script runs for these arguments, and whether they are logged."""
    seeds: list[int] = []
    monkeypatch.setattr(sys, "argv", ["train.py", "model=mlp", "data=digits", *arguments])
    main(lambda config, cfg: seeds.append(config.seed), (lambda config, overrides: nullcontext({})) if logs else None)
    return seeds


@pytest.mark.parametrize(
    ("output", "arguments", "logs", "seeds"),
    [
        (NOWHERE, ["tracking=off"], True, [0]),
        ("", ["-m", "tracking=off", "seed=1,2"], True, [1, 2]),
        ("out", ["seed=3"], False, [3]),
    ],
    ids=["untracked", "an untracked sweep", "a script that logs nothing"],
)
def test_unlogged_run_writes_no_files(
    output: str, arguments: list[str], logs: bool, seeds: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(paths, "ROOT", tmp_path / "site-packages")  # so that output goes to the working directory
    monkeypatch.setenv(paths.OUTPUT, output)
    assert started(monkeypatch, arguments, logs) == seeds
    assert not list(tmp_path.iterdir())


def test_logging_needs_a_writable_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(paths.OUTPUT, NOWHERE)
    with pytest.raises(SystemExit) as caught:
        started(monkeypatch, [])
    assert str(caught.value) == (
        f"error: {NOWHERE}/outputs cannot be written (No such file or directory): set NL_OUTPUT to a folder that can"
    )
    monkeypatch.setenv(paths.OUTPUT, str(tmp_path))
    assert started(monkeypatch, ["-m", "seed=4,5"]) == [4, 5]
    assert started(monkeypatch, ["seed=6"]) == [6]
    assert {path.name for path in tmp_path.iterdir()} == {"multirun", "outputs"}
    assert list(tmp_path.glob("outputs/*/*/.hydra/config.yaml"))


def test_failed_job_is_reported_without_a_writable_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(config: Config, cfg: DictConfig) -> None:
        raise UserError("no luck")

    monkeypatch.setenv(paths.OUTPUT, NOWHERE)
    monkeypatch.setattr(sys, "argv", ["gradcheck.py"])
    with pytest.raises(SystemExit, match="error: no luck"):
        main(fail)


@pytest.mark.parametrize("name", CHARACTERS)
def test_store_can_be_in_any_folder(name: str, tables: Path, tmp_path: Path) -> None:
    folder = tmp_path / name
    store = new_store(tables, folder)
    assert sqlite_path(store.uri) == folder / "mlflow.db"
    run_id = finished_run(store)
    assert artifacts_of(store, run_id) == folder / "mlruns" / run_id / "artifacts"
    assert open_run("latest", at(folder)).run_id == run_id
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("move", [os.rename, shutil.copytree], ids=["moved", "copied"])
@pytest.mark.parametrize("name", ["new", "a?b 사진"])
def test_store_in_another_folder_has_its_artifacts_there(
    move: Callable[[Path, Path], None],
    name: str,
    tables: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    old, new = tmp_path / "old", tmp_path / name
    store = new_store(tables, old)
    run_id = finished_run(store)
    model = store.client.create_logged_model(store.experiment_id, "model", source_run_id=run_id)
    store.client.log_model_artifacts(model.model_id, str(old / "mlruns" / run_id / "artifacts" / "weights"))
    move(old, new)
    before = sorted(old.rglob("*"))
    capsys.readouterr()
    assert open_run("latest", at(new)).run_id == run_id
    assert capsys.readouterr().err.startswith(f"note: {new / 'mlflow.db'} was moved here")
    moved = new_store(tables, new)
    again = finished_run(moved)
    assert capsys.readouterr().err == ""
    for each in (run_id, again):
        assert artifacts_of(moved, each) == new / "mlruns" / each / "artifacts"
    location = local_path(moved.client.get_logged_model(model.model_id).artifact_location)
    assert location == new / "mlruns" / "models" / model.model_id / "artifacts"
    assert sorted(old.rglob("*")) == before
    if old.exists():  # the original of the copied store is unchanged
        assert artifacts_of(new_store(tables, old), run_id) == old / "mlruns" / run_id / "artifacts"
        assert capsys.readouterr().err == ""


def test_missing_artifacts_of_a_moved_store_are_reported(
    tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    run_id = finished_run(new_store(tables, old))
    new.mkdir()
    os.rename(old / "mlflow.db", new / "mlflow.db")
    capsys.readouterr()
    assert open_run(run_id, at(new)).run_id == run_id
    assert "1 runs and models still have theirs at the old location" in capsys.readouterr().err
    assert artifacts_of(store := new_store(tables, new), again := finished_run(store)) == (
        new / "mlruns" / again / "artifacts"
    )
    shutil.rmtree(old)
    with refused(run_id, old / "mlruns" / run_id, "are not there"):
        open_run(run_id, at(new))


def test_store_behind_a_symlink_is_not_moved(tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_id = finished_run(new_store(tables, tmp_path / "real"))
    (tmp_path / "link").symlink_to(tmp_path / "real")
    capsys.readouterr()
    assert open_run(run_id, at(tmp_path / "link")).run_id == run_id
    assert capsys.readouterr().err == ""
    assert artifacts_of(new_store(tables, tmp_path / "real"), run_id) == tmp_path / "real/mlruns" / run_id / "artifacts"


def test_latest_run_is_that_of_the_given_store_and_experiment(
    tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    mine = finished_run(new_store(tables, a, "mine"))
    usual, other = finished_run(new_store(tables, a)), finished_run(new_store(tables, b))
    found = []
    for arguments in ([], ["tracking.experiment_name=mine"], [f"tracking.uri={sqlite_uri(b / 'mlflow.db')}"]):
        monkeypatch.setattr(sys, "argv", ["evaluate.py", "run=latest", *arguments])
        monkeypatch.setenv(paths.OUTPUT, str(a))
        run_command(lambda run_id, config, others: found.append(open_run(run_id, config.tracking).run_id), "")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    found.append(open_run("latest", at(a)).run_id)
    assert found == [usual, mine, other, mine]
    with refused(usual, PROJECT, "'mine'"):
        open_run(usual, at(a))
    with refused("tracking.experiment_name=yours", "MLFLOW_EXPERIMENT_NAME=mine"):
        open_run("latest", at(a, "yours"))
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    with refused("run=latest", "'min'", "did you mean mine?"):
        open_run("latest", at(a, "min"))
    assert Store.of(at(a, "min"), write=False).experiment_id == ""  # the lookup of a run creates no experiment
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite_uri(a / "mlflow.db"))
    assert open_run("latest", at(a)).run_id == usual
    with refused("tracking.uri=", "MLFLOW_TRACKING_URI="):
        open_run("latest", at(b))


def test_each_experiment_has_an_mlflow_experiment_of_its_own(
    tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_store(tables, tmp_path)
    race = check(["experiment=race"], multirun=False).experiment
    own = Store.of(at(tmp_path), race)
    assert own.experiment_name == "node-layer-network/race"
    assert Store.of(at(tmp_path)).experiment_name == "node-layer-network"
    assert Store.of(at(tmp_path, "mine"), race).experiment_name == "mine"
    run_id = finished_run(own)
    assert open_run("latest", at(tmp_path)).run_id == open_run(run_id, at(tmp_path)).run_id == run_id
    with refused("run=latest", "'mine'"):
        open_run("latest", at(tmp_path, "mine"))
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "given")
    assert Store.of(at(tmp_path), race).experiment_name == "given"


@pytest.mark.parametrize("text", ["optimizer.lr=0.1", "model=mlp", "tracking=off"])
def test_options_that_a_logged_run_ignores_are_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "run=latest", "data.validation=0", text])
    known = "data, imports, tracking.uri, tracking.experiment_name"
    with pytest.raises(SystemExit, match=f"error: {text}: .* {known} may"):
        run_command(lambda *_: None, "", takes=("data",))


def test_script_arguments_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["predict.py", "a=b.png", "tracking.uri=http://h", "run=latest", "/가.png"])
    given = []
    run_command(lambda run_id, config, words: given.extend([run_id, config.tracking.uri, *words]), "", words=True)
    assert given == ["latest", "http://h", "a=b.png", "/가.png"]


def test_resume_looks_for_the_run_in_the_given_store(
    tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def left(store: Store) -> str:
        gone = this_process().rpartition(" ")[0] + " 1.0"
        run_id = str(store.client.create_run(store.experiment_id, tags={PROCESS: gone}).info.run_id)
        store.client.log_text(run_id, "seed: 0\n", CONFIG)
        return run_id

    mine, usual = new_store(tables, tmp_path / "a", "mine"), new_store(tables, tmp_path / "a")
    first, second = left(mine), left(usual)
    named = ["tracking.experiment_name=mine", f"tracking.uri={mine.uri}"]
    assert find(usual, "latest").run_id == second
    assert find(mine, "latest", named, "mine").run_id == first
    assert find(usual, first).run_id == first
    assert find(mine, first, named, "mine").given == ()
    with refused(second, PROJECT, "'mine'"):
        find(mine, second, named, "mine")
    study = left(usual)  # newer, and not a training: its parts cannot be continued
    usual.client.log_text(study, "experiment: {name: race, study: comparison}\n", CONFIG)
    assert find(usual, "latest").run_id == second
    with refused(study, "not a training"):
        find(usual, study)
    assert resume_command(mine.uri, "ab") == f"{paths.program()} train resume=ab tracking.uri={mine.uri}"
    monkeypatch.setenv(paths.OUTPUT, str(tmp_path / "a"))
    assert resume_command(mine.uri, "ab") == f"{paths.program()} train resume=ab"


@pytest.mark.parametrize(
    ("location", "words"),
    [
        (NOWHERE, ["cannot be written", "tracking.experiment_name"]),
        (f"file://{NOWHERE}", ["cannot be written"]),
        ("s3://bucket/x", ["pip install boto3"]),
        ("gs://bucket/x", ["pip install google-cloud-storage"]),
        ("wasbs://c@a.blob.core.windows.net/x", ["azure-storage-blob"]),
        ("mlflow-artifacts:/2", ["server"]),
        ("nonsense://x", ["nonsense://x"]),
    ],
)
def test_unusable_artifact_location_is_refused_before_training(
    location: str, words: list[str], tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("boto3", "google.cloud.storage", "azure.storage.blob"):
        monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    store = new_store(tables, tmp_path)
    store.client.create_experiment("away", artifact_location=location)
    with refused(location.removeprefix("file://"), *words):
        Store.open(store.uri, "away")
    assert Store.open(store.uri, "away", write=False).experiment_id


def test_unwritable_server_artifact_location_gives_advice_for_the_server() -> None:
    with refused(NOWHERE, "--artifacts-destination"):
        check_location(NOWHERE, "http://127.0.0.1:1")


def test_artifact_write_errors_are_reported_in_one_line(tables: Path, tmp_path: Path) -> None:
    store = new_store(tables, tmp_path)
    (tmp_path / "mlruns").rmdir()
    (tmp_path / "mlruns").write_text("no folder")
    with refused("artifacts cannot be written", tmp_path / "mlruns"), MLflowTracker(store, {"a": 1}, "a run", "a: 1\n"):
        pass
    (run,) = store.client.search_runs([store.experiment_id])
    assert run.info.status == "FAILED"


@pytest.mark.parametrize(
    ("uri", "package"),
    [
        ("postgresql+psycopg2://u:p@127.0.0.1:1/x", "psycopg2-binary"),
        ("mysql://u:p@127.0.0.1:1/x", "mysqlclient"),
        ("mysql+pymysql://u:p@127.0.0.1:1/x", "pymysql"),
        ("mssql+pyodbc://x", "pyodbc"),
    ],
)
def test_a_database_whose_driver_is_missing_is_refused_with_its_package(
    uri: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("psycopg2", "MySQLdb", "pymysql", "pyodbc"):
        monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    with refused(uri, f"pip install {package}"):
        Store.open(uri, "x")
